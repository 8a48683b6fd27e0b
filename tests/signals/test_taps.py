import copy
import pickle

import pytest
import torch
from torch import nn

from trimtab.nn import Attention
from trimtab.signals._gauges import ABSENT
from trimtab.signals._taps import (
    UNIT_WINDOW,
    Inert,
    Taps,
    Units,
    compiled_modules,
    find_tensor,
    site_name,
    unwrapped,
    watched_modules,
)
from trimtab.signals._unit_rows import UNIT_ROWS

CPU = torch.device("cpu")


def tap(model, size=64):
    taps = Taps(model, watched_modules(model, lambda _: True), size=size, device=CPU)
    taps.arm(True)
    return taps


def seen(taps, name):
    row = taps.samples[taps.names.index(name)]
    return row[row != ABSENT]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "plain"),
        [
            ("", "model"),
            ("_orig_mod", "model"),
            ("module", "model"),
            ("module._orig_mod.blocks.0", "blocks.0"),
            ("blocks.0._orig_mod.mlp", "blocks.0.mlp"),
            ("blocks._fsdp_wrapped_module.0", "blocks.0"),
            ("my_module.weight", "my_module.weight"),
            ("submodule.module_list.0", "submodule.module_list.0"),
        ],
    )
    def test_wrappers_are_left_out(self, name, plain):
        assert site_name(name) == plain

    def test_what_is_worth_a_tap(self):
        model = nn.Sequential(
            nn.Linear(2, 2), nn.Dropout(0.1), nn.Flatten(), nn.Sequential(nn.ReLU()), nn.Identity()
        )
        model.attention = Attention(2, 1)
        names = list(watched_modules(model, lambda name: name != "attention.v_proj"))
        assert names == ["0", "3.0", "attention", "attention.q_proj", "attention.k_proj",
                         "attention.out_proj", "attention.q_norm", "attention.k_norm"]  # fmt: skip

    def test_a_module_under_two_names_has_the_first(self):
        shared = nn.Linear(2, 2)
        assert list(watched_modules(nn.Sequential(shared, shared), lambda _: True)) == ["0"]

    def test_a_compiled_model_has_the_plain_names(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
        model[1].compile(backend="eager")
        whole = torch.compile(model, backend="eager")
        assert list(watched_modules(whole, lambda _: True)) == ["0", "1.0"]
        assert compiled_modules(whole) == ["", "1."]
        assert compiled_modules(nn.Linear(2, 2)) == []
        assert unwrapped(whole) is model
        assert unwrapped(model) is model


class TestWhen:
    def test_only_armed_in_training_and_with_gradients(self):
        model = nn.Sequential(nn.Linear(2, 2))
        taps = tap(model)
        x = torch.ones(1, 2)
        with torch.no_grad():
            model(x)
        model.eval()
        model(x)
        model.train()
        taps.arm(False)
        model(x)
        assert not len(seen(taps, "0"))
        taps.arm(True)
        y = model(x)
        torch.testing.assert_close(seen(taps, "0"), y.flatten().detach())
        taps.arm(True)  # forgets
        assert not len(seen(taps, "0"))
        taps.remove()
        model(x)
        assert not len(seen(taps, "0"))
        assert not model[0]._forward_hooks

    def test_a_part_in_evaluation_is_seen(self):
        """A frozen batch norm in a model that trains."""
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        model[1].eval()
        taps = tap(model)
        model(torch.ones(3, 2))
        assert len(seen(taps, "1")) == 6

    def test_a_smaller_second_output_does_not_leave_old_elements_behind(self):
        """Micro-batches of different sizes: the sample is of the last call alone."""
        model = nn.Sequential(nn.Linear(2, 2))
        taps = tap(model)
        model(torch.ones(8, 2) * 100)
        last = model(torch.ones(3, 2))
        torch.testing.assert_close(seen(taps, "0"), last.flatten().detach())

    def test_random_state_is_not_touched(self):
        model = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.5))
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(0)
            expected = model(torch.ones(64, 2))
            tap(model, size=16)
            torch.random.default_generator.manual_seed(0)
            torch.testing.assert_close(model(torch.ones(64, 2)), expected, rtol=0, atol=0)


class TestAttention:
    def test_is_measured_where_queries_meet_keys(self):
        model = nn.Sequential(nn.Linear(8, 8), Attention(8, 2, causal=True, softcap=5.0))
        taps = tap(model)
        model(torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)))
        gauges = dict(zip(taps.names, taps.attention().tolist(), strict=True))
        assert gauges["1"][0] <= 5
        assert 0 < gauges["1"][1] < 2
        assert taps.attention().isnan().sum() == 2 * (len(taps.names) - 1)
        taps.arm(True)
        assert taps.attention().isnan().all()


class TestUnits:
    def test_a_planted_dead_unit_and_a_healthy_layer(self):
        """Half of a healthy ReLU's outputs are zero; none of its units is dead."""
        g = torch.Generator().manual_seed(0)
        units = Units(2, CPU)
        units.watch([0, 1])
        for record in range(1, 3 * UNIT_WINDOW):
            healthy = torch.randn(UNIT_ROWS, 16, generator=g).relu()
            ill = healthy.clone()
            ill[:, [3, 5]] = 0
            alive = [(t != 0).any(dim=0) for t in (healthy, ill)]
            fractions = units.measure(alive)
            if record < UNIT_WINDOW:
                assert fractions.isnan().all()
                assert units.dead(0) is None
            else:
                assert fractions.tolist() == [0, 2 / 16]
        assert units.dead(1).nonzero().flatten().tolist() == [3, 5]

    def test_a_unit_that_dies_is_found_within_two_windows(self):
        units = Units(1, CPU)
        units.watch([0])
        alive, one_less = torch.ones(4, dtype=torch.bool), torch.tensor([True, True, True, False])
        for _ in range(UNIT_WINDOW):
            units.measure([alive])
        found = [units.measure([one_less]).item() for _ in range(2 * UNIT_WINDOW)]
        assert found[0] == 0
        assert found[-1] == 0.25

    def test_only_watched_modules_are_looked_at(self):
        units = Units(1, CPU)
        for _ in range(2 * UNIT_WINDOW):
            assert units.measure([torch.zeros(4, dtype=torch.bool)]).isnan().all()
        units.watch([0])
        for _ in range(UNIT_WINDOW):
            fractions = units.measure([torch.zeros(4, dtype=torch.bool)])
        assert fractions.tolist() == [1]
        assert units.measure([None]).isnan().all()

    def test_another_number_of_units_begins_anew(self):
        units = Units(1, CPU)
        units.watch([0])
        for _ in range(UNIT_WINDOW):
            units.measure([torch.ones(4, dtype=torch.bool)])
        assert units.measure([torch.ones(5, dtype=torch.bool)]).isnan().all()
        assert units.dead(0) is None

    def test_state_round_trip(self):
        units, other = Units(2, CPU), Units(2, CPU)
        units.watch([1])
        for _ in range(UNIT_WINDOW + 1):
            units.measure([None, torch.tensor([True, False])])
        other.load_state_dict(copy.deepcopy(units.state_dict()))
        for both in (units, other):
            assert both.dead(1).tolist() == [False, True]
        torch.testing.assert_close(
            units.measure([None, torch.tensor([False, False])]),
            other.measure([None, torch.tensor([False, False])]),
            equal_nan=True,
        )
        units.move_to(CPU)
        assert units.dead(1).tolist() == [False, True]


class TestOrder:
    def test_parts_come_before_the_whole_and_in_the_order_of_the_calls(self):
        class Backwards(nn.Module):
            def __init__(self):
                super().__init__()
                self.last, self.first, self.idle = (nn.Linear(2, 2) for _ in range(3))

            def forward(self, x):
                return self.last(self.first(x))

        model = Backwards()
        taps = tap(model)
        assert taps.order == []
        model(torch.ones(1, 2))
        assert taps.order == ["first", "last", "model"]
        model.last(torch.ones(1, 2))  # again: the first call counts
        assert taps.order == ["first", "last", "model"]

    def test_not_before_an_armed_pass(self):
        model = nn.Sequential(nn.Linear(2, 2))
        taps = tap(model)
        taps.arm(False)
        model(torch.ones(1, 2))
        assert taps.order == []

    def test_compiled_code_has_the_order_of_registration(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), nn.Linear(2, 2)))
        model.own = nn.Linear(2, 2)
        taps = tap(model)
        torch.compiler.reset()
        torch.compile(model, backend="eager")(torch.ones(1, 2))
        torch.compiler.reset()
        assert taps.order == ["0", "1.0", "1.1", "own"]


class TestRows:
    def test_they_are_forgotten_after_a_record(self):
        model = nn.Sequential(nn.Linear(2, 3))
        taps = tap(model)
        model(torch.eye(2))
        assert taps.row_gauges().isfinite().all()
        assert taps.row_gauges().isnan().all()


class TestFindTensor:
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_first_usable_one(self):
        x = torch.ones(2)
        assert find_tensor((torch.arange(3), None, {"a": [torch.zeros(0), x]})) is x
        assert find_tensor({"loss": 1.0}) is None
        assert find_tensor(torch.ones(2, device="meta")) is None
        assert find_tensor(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])) is None


class TestCopies:
    def test_hooks_are_left_behind(self):
        model = nn.Sequential(nn.Linear(2, 2), Attention(2, 1))
        taps = tap(model)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            hooks = [h for m in twin.modules() for h in m._forward_hooks.values()]
            assert len(hooks) == len(taps.names) + 1
            assert all(isinstance(h, Inert) for h in hooks)
            twin(torch.ones(1, 3, 2))
        assert (taps.samples == ABSENT).all()
