"""What limits a model, in words: by its errors and its loss, and that of trainings made to lack one thing."""

import pytest

from lrsa_coupled.training.limits import read_losses, sentence
from lrsa_coupled.training.loop import train
from tests.unit.test_training import with_training, write

FLAT, FALLING = [1.0] * 50, [0.97**k for k in range(50)]


@pytest.mark.parametrize(
    ("valid", "train_error", "losses", "expected"),
    [
        (0.08, 0.02, FLAT, "too few samples (error 8.00% on validation samples, 2.00% on training samples)"),
        (0.08, 0.02, FALLING, "too few samples"),
        (0.08, 0.07, FALLING, "too few steps"),
        (0.08, 0.07, [1.0, 0.9], "too few steps"),
        (0.08, 0.07, FLAT, "too small"),
        (0.02, 0.03, FLAT, "too small"),
    ],
)
def test_the_sentence(valid, train_error, losses, expected):
    assert sentence(valid, train_error, losses).startswith(expected)


def test_lines_that_hold_no_loss_are_left_out(tmp_path):
    lines = ['{"loss": 1.5}', "[]", "{", '{"loss": "x"}', '{"loss": NaN}', '{"epoch": 3}', '{"loss": 0.5}']
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n" + b"[" * 100_000)
    assert read_losses(tmp_path) == [1.5, 0.5]


def test_a_training_of_few_samples_says_so(tmp_path):
    config = with_training(epochs=60, learning_rate=1e-2, optimizer="muon", batch_size=2, validate_every=50)
    assert train(write(tmp_path / "data", 5), tmp_path / "model", config)["limit"].startswith("too few samples")
