"""What people call things."""

import pytest
import torch

from trimtab.lint import _names
from trimtab.lint._names import words


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (
            "OPTIMIZER_NAME",
            "optimizer opt optim opt_d optG d_opt optimizerD my_optimizer optimiser_g opt1",
            "option opts_path adopt options",
        ),
        ("SCHEDULER_NAME", "scheduler lr_scheduler sched lrs lr_sched_g", "lr schema"),
        ("SCALER_NAME", "scaler grad_scaler amp_scaler loss_scaler", "scale rescaler_x"),
        (
            "MODEL_NAME",
            "model net netD my_model resnet classifier encoder policy model_0 generator models",
            "modeling_utils loader internet_access criterion",
        ),
        (
            "LOSS_FUNCTION_NAME",
            "loss_fn criterion loss_func dice_loss FocalLoss crit",
            "lossy glossary",
        ),
        (
            "HELD_OUT_NAME",
            "val_loader test_dl self.valid_loader x_test eval_batches",
            "latest contest",
        ),
        ("TRAIN_DATA_NAME", "train_loader x_train trn_dl", "trainer"),
        (
            "EVALUATION_NAME",
            "evaluate test validate_epoch run_eval predict",
            "testing_ground retest",
        ),
        ("TARGET_NAME", "y labels target y_true yb batch_labels target_ids", "style outputs"),
        ("DATA_NAME", "x inputs images batch data xb", "xylophone output"),
    ],
)
def test_names(pattern, right, wrong):
    found = getattr(_names, pattern)

    assert [n for n in right.split() if not found.search(n)] == []
    assert [n for n in wrong.split() if found.search(n)] == []


@pytest.mark.parametrize("group", ["NORMS", "DROPOUTS", "WITH_DROPOUT", "AFFINE", "LAYERS"])
def test_layers_are_torch_s_own(group):
    missing = {n for n in getattr(_names, group) if not hasattr(torch.nn, n)}

    assert missing <= {"DropPath"}  # timm's


def test_losses_are_torch_s_own():
    known = {*dir(torch.nn), *dir(torch.nn.functional), "sigmoid_focal_loss"}

    assert known >= _names.LOSSES


def test_schedules_and_optimizers_of_torch_are_known():
    base = torch.optim.lr_scheduler.LRScheduler
    schedules = {
        name
        for name, c in vars(torch.optim.lr_scheduler).items()
        if isinstance(c, type)
        and issubclass(c, base)
        and not name.startswith("_")
        and c is not base
    }
    optimizers = {
        name
        for name, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and name != "Optimizer"
    }

    assert schedules - _names.SCHEDULERS == {"LRScheduler"} - {"LRScheduler"}
    assert optimizers - _names.OPTIMIZERS == set()


def test_words():
    assert words("a b\n c") == {"a", "b", "c"}
