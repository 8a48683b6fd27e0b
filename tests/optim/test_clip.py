import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import ConfigError
from trimtab.optim._clip import adaptive_clip_, clip_grad_norm_, clip_grad_value_, find_head
from trimtab.optim._norms import DOT_MIN_ELEMENTS, grad_norms

ORDERS = [1, 2, 3, math.inf, 0.5]
SHAPES = [(8, 3), (5,), (2, 2, 2)]
BAD_THRESHOLDS = [0, -1, math.nan, math.inf, -math.inf, True, "1", None, torch.tensor(1.0)]
CLIPS = {
    "norm": lambda params: clip_grad_norm_(params, 0.1),
    "value": lambda params: clip_grad_value_(params, 0.1),
    "adaptive": adaptive_clip_,
}


def copy_of(params):
    """The same parameters and gradients, independent of the first."""
    copies = []
    for p in params:
        copy = nn.Parameter(p.detach().clone())
        copy.grad = None if p.grad is None else p.grad.clone()
        copies.append(copy)
    return copies


def grads_of(params):
    return [p.grad for p in params]


def assert_same_grads(params, before):
    for p, b in zip(params, before, strict=True):
        torch.testing.assert_close(p.grad, b.grad, rtol=0, atol=0, equal_nan=True)


def with_sparse_grad():
    """An embedding whose gradient has the entries of row 1 three times."""
    embedding = nn.Embedding(6, 2, sparse=True)
    embedding(torch.tensor([4, 1, 1, 1])).sum().backward()
    return embedding.weight


class TestByNorm:
    @pytest.mark.parametrize("p", ORDERS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
    @pytest.mark.parametrize("max_norm", [0.5, 500.0])
    def test_matches_torch(self, make_params, no_host_sync, p, dtype, max_norm):
        params = make_params(SHAPES, dtype)
        theirs = copy_of(params)
        expected = nn.utils.clip_grad_norm_(theirs, max_norm, p)

        with no_host_sync():
            norms = clip_grad_norm_(params, max_norm, p)

        torch.testing.assert_close(norms.total, expected)
        # torch divides by the norm plus 1e-6
        torch.testing.assert_close(grads_of(params), grads_of(theirs), rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("max_norm", [0.01, 0.5, 500.0])
    def test_half_precision_is_rounded_once(self, make_params, no_host_sync, dtype, max_norm):
        """A factor in bfloat16 would be off by up to 0.4 %."""
        params = make_params(SHAPES, dtype, scale=30.0)
        exact = [p.grad.double() for p in params]
        norm = math.sqrt(sum(float(g.square().sum()) for g in exact))

        with no_host_sync():
            norms = clip_grad_norm_(params, max_norm)

        assert float(norms) == pytest.approx(norm, rel=1e-6)
        for p, grad in zip(params, exact, strict=True):
            expected = (grad * min(1, max_norm / norm)).to(dtype)
            torch.testing.assert_close(p.grad, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("scale", [1.0, 0.05])
    def test_sparse_gradients_scale_as_dense_ones(self, scale):
        sparse, dense = with_sparse_grad(), nn.Parameter(torch.zeros(6, 2))
        sparse.grad = sparse.grad * scale
        dense.grad = sparse.grad.to_dense()
        expected = nn.utils.clip_grad_norm_(dense, 0.5)

        norms = clip_grad_norm_(sparse, 0.5)

        torch.testing.assert_close(norms.total, expected)
        assert sparse.grad.is_sparse
        torch.testing.assert_close(sparse.grad.to_dense(), dense.grad, rtol=1e-5, atol=1e-7)

    def test_all_kinds_of_gradients_share_one_factor(self, make_params):
        params = [
            *make_params([(4, 3)], torch.float64),
            *make_params([(4, 3)], torch.bfloat16),
            with_sparse_grad(),
            *make_params([(4,)]),
        ]
        before = [g.to_dense().double().clone() for g in grads_of(params)]

        norm = float(clip_grad_norm_(params, 0.1))

        assert norm == pytest.approx(math.sqrt(sum(float(b.square().sum()) for b in before)))
        for grad, b in zip(grads_of(params), before, strict=True):
            tolerance = 4e-3 if grad.dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(
                grad.to_dense().double(), b * (0.1 / norm), rtol=tolerance, atol=0
            )

    @pytest.mark.parametrize("size", [DOT_MIN_ELEMENTS - 1, DOT_MIN_ELEMENTS, DOT_MIN_ELEMENTS + 1])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_large_gradients(self, generator, size, transposed):
        p = nn.Parameter(torch.zeros(size, 2))
        grad = torch.randn(2, size, generator=generator)
        p.grad = grad.t() if transposed else grad.view(size, 2)
        (theirs,) = copy_of([p])
        nn.utils.clip_grad_norm_(theirs, 1.0)
        clip_grad_norm_(p, 1.0)
        torch.testing.assert_close(p.grad, theirs.grad, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("max_norm", [1e-30, 1e30, 5e-324, 1e300])
    def test_thresholds_beyond_float32(self, make_params, max_norm):
        params = make_params(SHAPES)
        before = copy_of(params)
        clip_grad_norm_(params, max_norm)
        if max_norm > 1:
            assert_same_grads(params, before)
        else:
            assert float(grad_norms(params)) <= 1.001e-30

    @pytest.mark.parametrize("norm", [0.0, 1e-42, 1e-20, 1e18])
    def test_norms_near_the_ends_of_float32(self, norm):
        p = nn.Parameter(torch.zeros(1))
        p.grad = torch.tensor([norm])
        clip_grad_norm_(p, 1.0)
        assert p.grad.item() == pytest.approx(min(norm, 1.0), rel=1e-3)

    def test_a_norm_at_the_threshold_is_not_clipped(self):
        """Multiplying by the reciprocal of 6,603 would change it."""
        p = nn.Parameter(torch.zeros(1))
        p.grad = torch.tensor([6603.0])
        clip_grad_norm_(p, 6603.0)
        assert p.grad.item() == 6603.0

    @settings(deadline=None, max_examples=100)
    @given(
        grads=st.lists(
            st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6),
            min_size=1,
            max_size=4,
        ),
        max_norm=st.floats(1e-3, 1e4),
        p=st.sampled_from(ORDERS),
    )
    def test_any_gradients(self, grads, max_norm, p):
        params = [nn.Parameter(torch.zeros(len(g))) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.tensor(grad)
        before = copy_of(params)

        norm = float(clip_grad_norm_(params, max_norm, p))

        if norm <= max_norm:
            assert_same_grads(params, before)
        assert float(grad_norms(params, p)) <= max_norm * (1 + 1e-5)
        for param, b in zip(params, before, strict=True):  # the direction stays
            expected = b.grad * min(1.0, max_norm / max(norm, 1e-30))
            torch.testing.assert_close(param.grad, expected, rtol=1e-5, atol=1e-35)
        once = grads_of(copy_of(params))
        clip_grad_norm_(params, max_norm, p)
        torch.testing.assert_close(grads_of(params), once, rtol=1e-5, atol=1e-35)


class TestByValue:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("max_value", [0.3, 50.0])
    def test_matches_torch(self, make_params, no_host_sync, dtype, max_value):
        params = make_params(SHAPES, dtype)
        theirs = copy_of(params)
        nn.utils.clip_grad_value_(theirs, max_value)

        with no_host_sync():
            clip_grad_value_(params, max_value)

        assert_same_grads(params, theirs)

    def test_returns_the_norms_before(self, make_params):
        params = make_params(SHAPES)
        expected = nn.utils.get_total_norm(grads_of(params))
        torch.testing.assert_close(clip_grad_value_(params, 0.1).total, expected)

    def test_parts_of_complex_gradients_are_limited_each(self):
        p = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        p.grad = torch.tensor([3 + 4j, 0.1 - 9j, 0.2 + 0.3j])
        assert float(clip_grad_value_(p, 0.5)) == pytest.approx(math.sqrt(25 + 81.01 + 0.13))
        torch.testing.assert_close(p.grad, torch.tensor([0.5 + 0.5j, 0.1 - 0.5j, 0.2 + 0.3j]))

    def test_lazily_conjugated_gradients(self):
        """What autograd leaves where a parameter was conjugated."""
        p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        (p.conj() * torch.tensor([0.1 + 3j, 4 - 0.2j])).real.sum().backward()
        assert p.grad.is_conj()
        expected = p.grad.resolve_conj() / 10
        clip_grad_norm_(p, float(grad_norms(p)) / 10)
        torch.testing.assert_close(p.grad, expected)
        clip_grad_value_(p, 0.25)
        torch.testing.assert_close(p.grad, torch.tensor([0.01 + 0.25j, 0.25 - 0.02j]))

    def test_entries_of_one_place_are_limited_together(self):
        """Three entries of 1 in row 1 are a gradient of 3."""
        weight = with_sparse_grad()
        clip_grad_value_(weight, 0.75)
        assert weight.grad.is_sparse
        assert weight.grad.to_dense()[:, 0].tolist() == [0, 0.75, 0, 0, 0.75, 0]

        weight = with_sparse_grad()
        clip_grad_value_(weight, 2.0)
        assert weight.grad.to_dense()[:, 0].tolist() == [0, 2, 0, 0, 1, 0]

    def test_nan_stays_and_infinity_becomes_the_limit(self):
        p = nn.Parameter(torch.zeros(4))
        p.grad = torch.tensor([math.nan, math.inf, -math.inf, 0.5])
        norms = clip_grad_value_(p, 2.0)
        assert norms.total.isnan()
        torch.testing.assert_close(
            p.grad, torch.tensor([math.nan, 2.0, -2.0, 0.5]), rtol=0, atol=0, equal_nan=True
        )

    @settings(deadline=None, max_examples=50)
    @given(
        grad=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8),
        max_value=st.floats(2.0**-20, 2.0**20, width=32),
    )
    def test_any_gradients(self, grad, max_value):
        p = nn.Parameter(torch.zeros(len(grad)))
        p.grad = torch.tensor(grad)
        for _ in range(2):  # again changes nothing
            clip_grad_value_(p, max_value)
            assert p.grad.tolist() == [min(max(g, -max_value), max_value) for g in grad]


def clip_unit_by_unit(p, unit_dim, clip_factor=0.01, eps=1e-3):
    """Equation 3 of the paper in float64, one unit after the other."""
    grad, weight = p.grad.double(), p.detach().double()
    units = [(grad, weight)]
    if p.ndim > 1:
        units = list(zip(grad.unbind(unit_dim), weight.unbind(unit_dim), strict=True))
    for g, w in units:
        limit = clip_factor * max(float(w.norm()), eps)
        if float(g.norm()) > limit:
            g.mul_(limit / float(g.norm()))
    return grad.to(p.dtype)


UNITS = {
    "linear": (nn.Linear(3, 5), 0),
    "conv1d": (nn.Conv1d(4, 6, 3), 0),
    "conv2d": (nn.Conv2d(3, 6, 3), 0),
    "conv2d-depthwise": (nn.Conv2d(6, 6, 3, groups=6), 0),
    "conv-transpose2d": (nn.ConvTranspose2d(3, 6, 3), 1),
    "conv-transpose3d": (nn.ConvTranspose3d(3, 2, 2), 1),
    "embedding": (nn.Embedding(7, 4), 0),
    "lstm": (nn.LSTM(3, 4), 0),
    "layer-norm": (nn.LayerNorm(5), 0),
    "bilinear": (nn.Bilinear(2, 3, 4), 0),
}


@pytest.fixture
def give_grads(generator):
    """Random weights, and gradients of which some units are clipped and some are not."""

    def give(module, dtype=torch.float32):
        for p in module.to(dtype).parameters():
            p.data = torch.randn(p.shape, generator=generator).to(dtype)
            sizes = torch.logspace(-4, 0, len(p)).view(-1, *[1] * (p.ndim - 1))
            p.grad = (torch.randn(p.shape, generator=generator) * sizes).to(dtype)
        return module

    return give


class TestAdaptive:
    @pytest.mark.parametrize("kind", UNITS)
    @pytest.mark.parametrize("clip_factor", [0.01, 0.3])
    def test_matches_a_loop_over_units(self, give_grads, no_host_sync, kind, clip_factor):
        module, unit_dim = UNITS[kind]
        model = give_grads(nn.Sequential(module, nn.Linear(2, 2)))
        expected = [clip_unit_by_unit(p, unit_dim, clip_factor) for p in module.parameters()]
        head = grads_of(copy_of(model[1].parameters()))
        before = grads_of(copy_of(model.parameters()))

        with no_host_sync():
            norms = adaptive_clip_(model, clip_factor)

        torch.testing.assert_close(grads_of(module.parameters()), expected, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(grads_of(model[1].parameters()), head, rtol=0, atol=0)
        torch.testing.assert_close(norms.each, torch.stack([g.norm() for g in before]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_other_precisions(self, give_grads, dtype):
        module = give_grads(nn.Linear(64, 5), dtype)
        expected = [clip_unit_by_unit(p, 0) for p in module.parameters()]
        adaptive_clip_(module.parameters())
        tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 1e-12}[dtype]
        torch.testing.assert_close(
            grads_of(module.parameters()), expected, rtol=tolerance, atol=1e-6
        )

    def test_small_gradients_stay_bitwise(self, give_grads):
        model = give_grads(nn.Sequential(nn.Linear(3, 5), nn.Conv2d(3, 6, 3)))
        before = copy_of(model.parameters())
        adaptive_clip_(model.parameters(), clip_factor=1e6)
        assert_same_grads(model.parameters(), before)

    def test_weights_that_start_at_zero_can_move(self):
        """They count as 1e-3: without that floor the gradient would be clipped to nothing."""
        p = nn.Parameter(torch.zeros(2, 4))
        p.grad = torch.ones(2, 4)
        adaptive_clip_([p], clip_factor=0.01)
        torch.testing.assert_close(p.grad, torch.full((2, 4), 0.01 * 1e-3 / 2))
        p.grad = torch.ones(2, 4)
        adaptive_clip_([p], clip_factor=0.01, eps=1.0)
        torch.testing.assert_close(p.grad, torch.full((2, 4), 0.01 / 2))

    def test_a_zero_gradient_stays_zero(self):
        p = nn.Parameter(torch.ones(2, 4))
        p.grad = torch.zeros(2, 4)
        adaptive_clip_(p)
        assert p.grad.tolist() == torch.zeros(2, 4).tolist()

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_unit_that_is_not_finite_is_left_alone(self, give_grads, bad):
        (weight,) = give_grads(nn.Linear(3, 5, bias=False)).parameters()
        expected = clip_unit_by_unit(weight, 0)
        weight.grad[1, 2] = bad
        expected[1] = weight.grad[1]
        norms = adaptive_clip_([weight])
        assert not norms.total.isfinite()
        torch.testing.assert_close(weight.grad, expected, equal_nan=True)
        torch.testing.assert_close(weight.grad[1], expected[1], rtol=0, atol=0, equal_nan=True)

    def test_exclude_takes_modules_and_parameters(self, give_grads):
        model = give_grads(nn.ModuleList([nn.Linear(3, 5) for _ in range(4)]))
        before = grads_of(copy_of(model.parameters()))

        norms = adaptive_clip_(model, exclude=[model[0], model[1].weight])

        kept = [torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True)]
        assert kept == [True, True, True, False, False, False, False, False]
        assert len(norms.each) == 8

    def test_exclude_takes_one_without_a_list(self, give_grads):
        model = give_grads(nn.ModuleList([nn.Linear(3, 5) for _ in range(2)]))
        before = grads_of(copy_of(model.parameters()))
        adaptive_clip_(model, exclude=model[0])
        adaptive_clip_(model[1].parameters(), exclude=model[1].weight)
        kept = [torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True)]
        assert kept == [True, True, False, False]

    def test_of_given_parameters_all_are_clipped(self, give_grads):
        model = give_grads(nn.Linear(3, 5))
        expected = [clip_unit_by_unit(p, 0) for p in model.parameters()]
        adaptive_clip_(model.parameters())
        torch.testing.assert_close(grads_of(model.parameters()), expected)

    def test_tied_weights_of_the_head_are_not_clipped(self, give_grads):
        model = nn.ModuleDict({"tokens": nn.Embedding(7, 4), "head": nn.Linear(4, 7)})
        model["head"].weight = model["tokens"].weight
        give_grads(model)
        before = copy_of(model.parameters())
        adaptive_clip_(model)
        assert_same_grads(model.parameters(), before)

    def test_the_head_is_the_last_linear_layer(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Conv1d(2, 2, 1))
        assert find_head(model) == [model[1]]
        assert find_head(nn.Conv1d(2, 2, 1)) == []

    def test_sparse_gradients_are_refused_before_any_change(self, give_grads):
        model = give_grads(nn.Linear(3, 5))
        weight = with_sparse_grad()
        before = copy_of(model.parameters())
        with pytest.raises(ConfigError, match=r"needs dense gradients.*or pass it as exclude"):
            adaptive_clip_([*model.parameters(), weight])
        assert_same_grads(model.parameters(), before)

        norms = adaptive_clip_([*model.parameters(), weight], exclude=[weight])
        assert len(norms.each) == 3
        assert weight.grad.to_dense()[:, 0].tolist() == [0, 3, 0, 0, 1, 0]

    @settings(deadline=None, max_examples=50)
    @given(
        rows=st.lists(
            st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)),
            min_size=1,
            max_size=5,
        ),
        clip_factor=st.floats(1e-3, 10),
        scale=st.floats(0, 2),
    )
    def test_any_gradients(self, rows, clip_factor, scale):
        p = nn.Parameter(torch.full((len(rows), 2), scale))
        p.grad = torch.tensor(rows)
        expected = clip_unit_by_unit(p, 0, clip_factor)
        for _ in range(2):  # again changes nothing
            adaptive_clip_([p], clip_factor)
            torch.testing.assert_close(p.grad, expected, rtol=1e-5, atol=1e-30)


class TestAllOfThem:
    @pytest.mark.parametrize("clip", CLIPS)
    def test_no_gradient_is_no_error(self, clip):
        for params in ([], iter(()), [nn.Parameter(torch.ones(3))]):
            norms = CLIPS[clip](params)
            assert float(norms) == 0
            assert norms.each.shape == (0,)

    @pytest.mark.parametrize("clip", CLIPS)
    def test_a_gradient_without_elements(self, clip):
        params = [nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(1))]
        for p in params:
            p.grad = torch.full_like(p, 3.0)
        assert CLIPS[clip](params).each.tolist() == [0, 3]
        assert params[0].grad.shape == (0, 3)
        assert params[1].grad.item() <= 0.1 * (1 + 1e-6)

    @pytest.mark.parametrize("clip", CLIPS)
    def test_a_generator_or_a_single_tensor_is_enough(self, clip, make_params):
        params = make_params(SHAPES)
        from_list, from_generator, alone = copy_of(params), copy_of(params), copy_of(params)
        CLIPS[clip](from_list)
        CLIPS[clip](p for p in from_generator)
        assert not torch.equal(from_list[0].grad, params[0].grad)
        assert_same_grads(from_generator, from_list)

        CLIPS[clip](alone[0])
        assert not torch.equal(alone[0].grad, params[0].grad)
        assert_same_grads(alone[1:], params[1:])

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("p", ORDERS)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64], ids=str)
    def test_a_norm_that_is_not_finite_changes_nothing(self, make_params, bad, p, dtype):
        params = make_params(SHAPES, dtype, scale=100.0)
        params[1].grad[2] = bad
        before = copy_of(params)
        norms = clip_grad_norm_(params, 0.5, p)
        assert not norms.total.isfinite()
        assert_same_grads(params, before)

    @pytest.mark.parametrize("clip", CLIPS)
    def test_it_is_no_part_of_the_graph(self, clip, make_params):
        params = make_params(SHAPES)
        values = [p.detach().clone() for p in params]
        assert not CLIPS[clip](params).total.requires_grad
        assert not any(p.grad.requires_grad for p in params)
        assert all(torch.equal(p, v) for p, v in zip(params, values, strict=True))


class TestBadInput:
    @pytest.mark.parametrize("value", BAD_THRESHOLDS, ids=repr)
    @pytest.mark.parametrize(
        ("name", "clip"),
        [
            ("max_norm", clip_grad_norm_),
            ("max_value", clip_grad_value_),
            ("clip_factor", adaptive_clip_),
            ("eps", lambda params, value: adaptive_clip_(params, eps=value)),
        ],
    )
    def test_threshold(self, make_params, name, clip, value):
        params = make_params(SHAPES, scale=100.0)
        before = copy_of(params)
        message = f"^{name} must be a finite, positive number, got .*call grad_norms"
        with pytest.raises(ConfigError, match=message):
            clip(params, value)
        assert_same_grads(params, before)

    @pytest.mark.parametrize("p", [0, -2, math.nan, True, "2", None])
    def test_norm_type(self, make_params, p):
        params = make_params(SHAPES, scale=100.0)
        before = copy_of(params)
        with pytest.raises(ConfigError, match="norm_type must be a number above 0"):
            clip_grad_norm_(params, 1.0, p)
        assert_same_grads(params, before)

    @pytest.mark.parametrize("clip", CLIPS)
    def test_named_parameters(self, clip):
        with pytest.raises(ConfigError, match=r"Pass parameters\(\), not named_parameters\(\)"):
            CLIPS[clip](nn.Linear(2, 2).named_parameters())

    @pytest.mark.parametrize("clip", ["norm", "value"])
    def test_a_module(self, clip):
        with pytest.raises(ConfigError, match=r"For a module, pass module.parameters\(\)"):
            CLIPS[clip](nn.Linear(2, 2))

    def test_exclude_by_name(self, make_params):
        params = make_params(SHAPES, scale=100.0)
        before = copy_of(params)
        with pytest.raises(ConfigError, match=r"got str.*pass model.get_parameter\(name\)"):
            adaptive_clip_(params, exclude=["head"])
        assert_same_grads(params, before)


def clip_sharded(rank, folder):
    """Clip the sharded gradients of one step, and save what the whole tensors became."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    dist.device_mesh.init_device_mesh("cpu", (2,))
    saved = {}
    for name, clip in SHARDED_CLIPS.items():
        model = sharded_model()
        fully_shard(model[1])
        fully_shard(model)
        model(sharded_input()).square().mean().backward()
        norms = clip(list(model.parameters()))
        grads = [p.grad.full_tensor() for p in model.parameters()]
        saved[name] = {"total": norms.total, "each": norms.each, "grads": grads}
    torch.save(saved, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


SHARDED_CLIPS = {
    "norm": lambda params: clip_grad_norm_(params, 0.1),
    "norm-1": lambda params: clip_grad_norm_(params, 0.1, 1),
    "norm-inf": lambda params: clip_grad_norm_(params, 0.1, math.inf),
    "value": lambda params: clip_grad_value_(params, 0.01),
    "adaptive": adaptive_clip_,
}


def sharded_model():
    """Sizes that two ranks cannot share evenly, one of them smaller than the number of ranks."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 1))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return model


def sharded_input():
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.dist
@pytest.mark.slow
def test_sharded_gradients_count_in_full(tmp_path):
    mp.spawn(clip_sharded, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    torch.testing.assert_close(ranks[0], ranks[1], rtol=0, atol=0)
    for name, clip in SHARDED_CLIPS.items():
        model = sharded_model()
        model(sharded_input()).square().mean().backward()
        norms = clip(list(model.parameters()))
        expected = {"total": norms.total, "each": norms.each, "grads": grads_of(model.parameters())}
        torch.testing.assert_close(
            ranks[0][name], expected, msg=lambda m, name=name: f"{name}: {m}"
        )
