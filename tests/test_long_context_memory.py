"""Long prompts take memory in proportion to their length at most: some are read, others only compiled for."""

import pytest

from scripts import bench_long_context
from scripts.bench_long_context import PREFILL_MODES, Measurement, compile_programs, main, measure_in_subprocess

GIGABYTE = 10**9


@pytest.mark.parametrize("way", ["whole", "chunked"])
def test_prefill_memory_is_bounded(way):
    """Read for real, by a model of one layer of those that docs/performance.md shows four of."""
    found = measure_in_subprocess(way, 32_768, 1)
    assert found.cache_bytes == 2 * 32_768 * 2 * 64 * 4
    assert found.cache_bytes < found.peak_bytes < {"whole": 1.5, "chunked": 0.3}[way] * GIGABYTE


@pytest.mark.parametrize("way", ["chunked", "windowed"])
def test_chunk_memory_is_independent_of_prompt_length(way):
    """Temporary memory of the program that goes on reading, and the cache, which is written where it is."""
    compiled = {
        length: compile_programs(PREFILL_MODES[way], length, 1).next_chunk.memory_analysis()
        for length in (32_768, 131_072)
    }
    short, long = compiled.values()
    assert long.temp_size_in_bytes < 1.01 * short.temp_size_in_bytes < 100 * 2**20
    for length, memory in compiled.items():
        kept = min(length, PREFILL_MODES[way].window or length)
        assert 0 <= memory.alias_size_in_bytes - 2 * kept * 2 * 64 * 4 < 4096
        assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 4096


def test_printed_table_and_plot(tmp_path, capsys, monkeypatch):
    """Of memory that grows as it should, though nothing is run here."""
    pytest.importorskip("matplotlib")

    def found(way, length, layers, run):
        return Measurement(way, length, 7 * length ** (2 if way == "quadratic" else 1), length, 1.5 if run else None)

    monkeypatch.setattr(bench_long_context, "measure_in_subprocess", found)
    main(["--lengths", "1024", "2048", "4096", "--written-out", "2048", "--plot", str(tmp_path / "plot.png")])
    printed = capsys.readouterr().out
    assert "| 2,048 | 0 MB | 0 MB, 1.5 s | 0 MB, 1.5 s | 0 MB, 1.5 s | 29 MB, 1.5 s |" in printed
    assert "*117 MB, computed*" in printed
    assert "whole: N^1.00; 7 bytes for each of the last 2,048 tokens" in printed
    assert "quadratic: N^2.00" in printed
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--lengths", "3000"], "lengths=3000: must be a power of two"), (["--plot", "plot.txt"], "must be a PNG file")],
)
def test_input_errors(capsys, words, message):
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
