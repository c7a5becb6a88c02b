"""One process of a job of test_distributed: generates on several meshes, then goes on until it is stopped."""

import json
import sys
from pathlib import Path

import jaxllm
from jaxllm.parallel import distributed

PROMPTS = [[5, 17, 33, 2, 9, 60, 61], [7], [90, 3, 3], [1, 2]]


def main(coordinator: str, count: str, process: str, checkpoint: str, cases: str, found: str) -> None:
    with distributed.job(coordinator, int(count), int(process)):
        tokens, model = [], None
        for axes, options in json.loads(cases):
            model, _ = jaxllm.load(checkpoint, mesh=jaxllm.make_mesh(**axes))
            tokens.append(jaxllm.generate_tokens(model, PROMPTS, **options))
        Path(found).write_text(json.dumps(tokens))
        print("going on", flush=True)
        while model:
            jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
