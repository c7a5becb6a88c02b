"""Trains the bundled demo model: a small Llama that writes plays, in PyTorch with Transformers.

    python scripts/train_demo.py                 # train, store, measure: under an hour on 2 CPU cores
    python scripts/train_demo.py --evaluate      # measure the stored model again

Needs torch, transformers, tokenizers and rich. One megabyte of text is little, so most of what is unusual
here works against overfitting: dropout on the residual branches and several spellings of every word.
"""

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from demo_text import EOS, EOS_ID, BPEDropoutSampler, split_text, train_tokenizer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
SAMPLING = {"temperature": 0.7, "top_k": 50}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'user': 'JULIET:\\n', 'assistant': 'ROMEO:\\n'}.get(message['role'], '') + message['content'] + '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ROMEO:\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TrainingConfig:
    vocab_size: int = 1024
    hidden_size: int = 256
    intermediate_size: int = 640
    num_layers: int = 5
    num_heads: int = 8
    num_kv_heads: int = 4
    context_length: int = 512
    steps: int = 3000
    batch_tokens: int = 4096
    muon_lr: float = 0.02
    adam_lr: float = 0.003
    weight_decay: float = 0.1
    dropout: float = 0.15
    bpe_dropout: float = 0.1
    variants_per_word: int = 12  # of every word, drawn once with bpe_dropout
    seed: int = 1


def build_model(config: TrainingConfig) -> LlamaForCausalLM:
    torch.manual_seed(config.seed)
    llama_config = LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.context_length, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=EOS_ID,
    )  # fmt: skip
    model = LlamaForCausalLM(llama_config)
    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):  # what is added to the residual stream
            module.register_forward_hook(lambda m, _, out: F.dropout(out, config.dropout, m.training))
    return model


def build_optimizers(model: LlamaForCausalLM, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    parameters = dict(model.named_parameters())
    matrices = [p for n, p in parameters.items() if p.ndim == 2 and "embed" not in n]
    embedding = [p for n, p in parameters.items() if "embed" in n]
    norms = [p for p in parameters.values() if p.ndim == 1]
    decayed = {"params": embedding, "weight_decay": config.weight_decay}
    return [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW([decayed, {"params": norms, "weight_decay": 0.0}], lr=config.adam_lr, betas=(0.9, 0.98)),
    ]


def batches(sampler: BPEDropoutSampler, config: TrainingConfig):
    """Endless [B, T + 1] batches; T doubles twice on the way, as short windows are cheaper and more varied."""
    rng = np.random.default_rng(config.seed)
    step = 0
    while True:
        tokens = sampler.sample(rng)
        window = config.context_length >> max(0, 2 - 3 * step // config.steps)
        starts = np.arange(rng.integers(window), len(tokens) - window - 1, window)
        rng.shuffle(starts)
        size = config.batch_tokens // window
        for i in range(0, len(starts) - size + 1, size):
            yield torch.from_numpy(np.stack([tokens[s : s + window + 1] for s in starts[i : i + size]]))
            step += 1


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Returns the learning-rate factor: warm-up, plateau, and linear decay to zero over the last two thirds."""
    return min((step + 1) / 100, 1.0, (num_steps - step) / num_steps * 1.5)


def token_losses(model, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)


def train(model: LlamaForCausalLM, sampler: BPEDropoutSampler, config: TrainingConfig) -> None:
    optimizers = build_optimizers(model.train(), config)
    rates = (config.muon_lr, config.adam_lr)
    compiled = torch.compile(token_losses, dynamic=False)
    average = 0.0
    start_time = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, speed_estimate_period=300) as progress:
        task = progress.add_task("compiling", total=config.steps)
        for step, tokens in zip(range(config.steps), batches(sampler, config), strict=False):
            with torch.autocast("cpu", torch.bfloat16):
                loss = compiled(model, tokens).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in zip(optimizers, rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * learning_rate_factor(step, config.steps)
                optimizer.step()
                optimizer.zero_grad()
            average += (loss.item() - average) * max(0.02, 1 / (step + 1))
            speed = (step + 1) * config.batch_tokens / (time.perf_counter() - start_time)
            progress.update(task, advance=1, description=f"loss {average:.3f}  {speed:,.0f} tok/s")


@torch.no_grad()
def nats_per_character(model: LlamaForCausalLM, tokenizer: Tokenizer, text: str) -> float:
    """Windows of the context length, half overlapping; each token is scored once, with the longest context it has."""
    tokens = torch.tensor([EOS_ID, *tokenizer.encode(text).ids])
    context = model.config.max_position_embeddings
    scored = 0
    total = 0.0
    for start in range(0, len(tokens) - 1, context // 2):
        losses = token_losses(model.eval(), tokens[None, start : start + context + 1])[0]
        total += losses[scored - start :].double().sum().item()
        scored = start + len(losses)
        if scored == len(tokens) - 1:
            break
    return total / len(text)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(directory)  # pyright: ignore[reportArgumentType]
    hf_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS, chat_template=CHAT_TEMPLATE,
        model_max_length=model.config.max_position_embeddings, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    hf_tokenizer.save_pretrained(directory, save_jinja_files=False)
    for path in directory.iterdir():  # safetensors writes files that only their owner may read
        path.chmod(0o644)


def evaluate(directory: Path, held_out: str) -> tuple[float, str]:
    """Nats per character of the weights as stored (bf16, computed in float32), and a sample."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    nats = nats_per_character(model, tokenizer, held_out)
    torch.manual_seed(0)
    prompt = torch.tensor([tokenizer.encode("JULIET:\n").ids])
    tokens = model.generate(prompt, max_new_tokens=150, do_sample=True, **SAMPLING)  # pyright: ignore[reportAttributeAccessIssue]
    return nats, tokenizer.decode(tokens[0].tolist()).strip()


def write_card(directory: Path, config: TrainingConfig, **results) -> None:
    template = Path(__file__).with_name("demo_card.md").read_text(encoding="utf-8")
    sizes = {
        "half": config.context_length // 2,
        "quarter": config.context_length // 4,
        "head_size": config.hidden_size // config.num_heads,
    }
    card = template.format(**asdict(config), **sizes, **SAMPLING, **results)
    (directory / "README.md").write_text(card, encoding="utf-8")


def train_and_save(config: TrainingConfig, text: str, directory: Path) -> dict:
    """Trains and stores a model, and returns the values for its card."""
    start_time = time.perf_counter()
    processor = time.process_time()
    tokenizer = train_tokenizer(text, config.vocab_size)
    model = build_model(config)
    train(model, BPEDropoutSampler(tokenizer, text, config.bpe_dropout, config.variants_per_word, config.seed), config)
    save(model, tokenizer, directory)
    minutes = (time.perf_counter() - start_time) / 60
    core_minutes = (time.process_time() - processor) / 60
    return {"parameters": model.num_parameters(), "minutes": minutes, "core_minutes": core_minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled demo model.")
    parser.add_argument("--text", type=Path, default=ROOT.parent / "shared/data/text/tinyshakespeare.txt")
    parser.add_argument("--output", type=Path, default=ROOT / "jaxllm/demo")
    parser.add_argument("--steps", type=int, default=TrainingConfig.steps)
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --output")
    arguments = parser.parse_args()
    torch.set_num_threads(2)  # the order of sums, hence the result, depends on it
    torch.use_deterministic_algorithms(True)
    config = TrainingConfig(steps=arguments.steps)
    (text, held_out) = split_text(arguments.text)
    training_results = None
    if not arguments.evaluate:
        training_results = train_and_save(config, text, arguments.output)
    nats, sample = evaluate(arguments.output, held_out)
    if training_results:
        write_card(arguments.output, config, nats=nats, sample=sample, **training_results)
    print(f"{sample}\n\n{nats:.4f} nats per held-out character")


if __name__ == "__main__":
    main()
