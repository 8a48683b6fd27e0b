import torch
from torch import nn

from trimtab.init._draw import draw_, draw_normal_
from trimtab.init._weights import find_weights


def test_standard_deviation_by_weight(generator, measured):
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 200))

    draw_normal_(find_weights(model), lambda w: 300 / w.fan_out, generator)

    assert abs(measured(model[0].weight) ** 0.5 - 1) < 0.02
    assert abs(measured(model[1].weight) ** 0.5 - 1.5) < 0.03


def test_half_precision_is_filled_in_float32():
    dtypes = []
    model = nn.Linear(3, 3, dtype=torch.float16)

    draw_(find_weights(model), lambda x, _: dtypes.append(x.dtype) or x.fill_(0.1), None)

    assert dtypes == [torch.float32]
    assert (model.weight == torch.tensor(0.1, dtype=torch.float16)).all()


def test_padding_rows_stay_zero(generator):
    model = nn.Sequential(nn.Embedding(4, 3, padding_idx=1), nn.EmbeddingBag(4, 3, padding_idx=2))

    draw_normal_(find_weights(model, {"embedding"}), lambda _: 1.0, generator)

    assert [(m.weight == 0).all(dim=1).tolist() for m in model] == [
        [False, True, False, False],
        [False, False, True, False],
    ]


def test_nothing_is_tracked_by_autograd(generator):
    model = nn.Linear(3, 3)

    draw_normal_(find_weights(model), lambda _: 1.0, generator)

    assert model.weight.is_leaf
    assert model.weight.requires_grad
    assert model.weight.grad is None
