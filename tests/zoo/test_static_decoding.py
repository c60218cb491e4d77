"""The decoder with a static cache against the module without any."""

import pytest

torch = pytest.importorskip("torch", reason="the models are torch modules")
from examples.zoo.decode_graph import GreedyDecoder  # noqa: E402
from examples.zoo.llama import Llama, LlamaConfig  # noqa: E402
from examples.zoo.llama_static import StaticLlama  # noqa: E402

CONFIG = LlamaConfig(layers=2, width=64, heads=4, kv_heads=2, hidden=96, vocabulary=100)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    llama = Llama(CONFIG).eval()
    return llama, StaticLlama.from_llama(llama, CONFIG)


def test_logits_are_those_of_the_module_without_a_cache(models):
    llama, static = models
    ids = torch.randint(0, 100, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = llama(ids)
        whole = static(ids, torch.arange(7), static.cache(3, 16))
        past = static.cache(3, 16)  # in two parts, and then one by one
        static(ids[:, :4], torch.arange(4), past)
        steps = [static(ids[:, i : i + 1], torch.tensor([i]), past) for i in (4, 5, 6)]
    torch.testing.assert_close(whole, expected[:, -1], rtol=1e-4, atol=1e-4)
    for step, position in zip(steps, (4, 5, 6), strict=True):
        torch.testing.assert_close(step, expected[:, position], rtol=1e-4, atol=1e-4)


def test_greedy_decoding_chooses_the_same_tokens(models):
    llama, static = models
    prompt = torch.randint(0, 100, (2, 5), generator=torch.Generator().manual_seed(2))
    decoder = GreedyDecoder(static, 2, 20)
    for _ in range(2):  # the second prompt finds what the first left in the cache
        decoder.prefill(prompt)
        found = decoder.generate(9)
        ids = prompt
        with torch.no_grad():
            for _ in range(10):
                ids = torch.cat((ids, llama(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
        assert torch.equal(found, ids)
        prompt = prompt.flip(1)


def test_the_cache_has_an_end(models):
    _, static = models
    decoder = GreedyDecoder(static, 1, 8)
    with pytest.raises(ValueError, match="capacity"):
        decoder.prefill(torch.zeros(1, 8, dtype=torch.int64))
    decoder.prefill(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="room for 3"):
        decoder.generate(4)
    assert decoder.generate(3).shape == (1, 8)


def test_the_example_runs_without_files(capsys):
    from examples.generate import main

    assert main(["--random", "--tokens", "3", "--batch", "2"]) == 0
    text = capsys.readouterr().out
    assert "8 of 9 linear layers are sparse" in text
    error = float(text.rsplit("at most ", 1)[1].split()[0])
    assert 0 < error < 4e-3
