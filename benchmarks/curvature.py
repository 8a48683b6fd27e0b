"""Whether the learning rate that curvature allows at initialisation tells which runs diverge.

Each set-up is run at multiples of `largest_stable_lr`, constant and from step 0, on full batches
(on mini-batches of text for the language model). `rose` is the highest loss of the first 100 steps
relative to the first one. A run is lost if its last ten losses are above a fifth of the way from
what the best run of its kind reached to where it started, or not finite. Then the same with a
linear warmup.
"""

import math
import pydoc_data.topics
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import measure
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import nn
from torch.nn import functional

from trimtab.nn import GPT
from trimtab.preflight import LiveRule, preflight

RATIOS = (0.125, 0.25, 0.5, 0.9, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0)
NO_RULES: list[LiveRule] = []
STEPS = 150
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Setup:
    model: nn.Module
    optimizer: Callable[[float], torch.optim.Optimizer]
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    batch: Callable[[int], Batch]


def digits() -> Batch:
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x[:512], dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(y[:512])


def mlp(activation: type[nn.Module], depth: int, outputs: int, features: int) -> nn.Module:
    layers = [m for _ in range(depth) for m in (nn.LazyLinear(64), activation())]
    model = nn.Sequential(*layers, nn.LazyLinear(outputs))
    model(torch.zeros(2, features))
    return model


def classify(activation: type[nn.Module], make: Callable[..., torch.optim.Optimizer]) -> Setup:
    model, data = mlp(activation, 3, 10, 64), digits()
    optimizer = lambda lr: make(model.parameters(), lr=lr)  # noqa: E731
    return Setup(model, optimizer, functional.cross_entropy, lambda _: data)


def regress(make: Callable[..., torch.optim.Optimizer]) -> Setup:
    x, y = (torch.tensor(a, dtype=torch.float32) for a in load_diabetes(return_X_y=True))
    x, y = (x - x.mean(0)) / x.std(0), ((y - y.mean()) / y.std())[:, None]
    model = mlp(nn.Tanh, 2, 1, 10)
    optimizer = lambda lr: make(model.parameters(), lr=lr)  # noqa: E731
    return Setup(model, optimizer, functional.mse_loss, lambda _: (x, y))


def language(make: Callable[..., torch.optim.Optimizer], residual: str) -> Setup:
    text = "".join(pydoc_data.topics.topics.values()).encode()[:200_000]
    data = torch.tensor(list(text))
    model = GPT(256, dim=64, depth=3, num_heads=4, max_len=64, residual=residual)

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(len(data) - 65, (8,), generator=generator)
        rows = torch.stack([data[s : s + 65] for s in starts])
        return rows[:, :-1], rows[:, 1:]

    def loss_fn(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output.flatten(0, 1), y.flatten())

    return Setup(model, lambda lr: make(model.parameters(), lr=lr), loss_fn, batch)


def momentum(params: object, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def adam(params: object, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=lr)


def rmsprop(params: object, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(params, lr=lr, alpha=0.999)


KINDS: dict[str, Callable[[], Setup]] = {
    "digits relu, gradient descent": lambda: classify(nn.ReLU, torch.optim.SGD),
    "digits tanh, gradient descent": lambda: classify(nn.Tanh, torch.optim.SGD),
    "digits gelu, momentum 0.9": lambda: classify(nn.GELU, momentum),
    "diabetes mse, gradient descent": lambda: regress(torch.optim.SGD),
    "digits relu, Adam": lambda: classify(nn.ReLU, adam),
    "digits tanh, Adam": lambda: classify(nn.Tanh, adam),
    "diabetes mse, Adam": lambda: regress(adam),
    "text GPT, Adam": lambda: language(adam, "pre_norm"),
    "text GPT, momentum 0.9": lambda: language(momentum, "pre_norm"),
}


def train(setup: Setup, lr: float, warmup: int, steps: int) -> list[float]:
    """Return the loss of each step."""
    optimizer = setup.optimizer(lr)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / max(1, warmup))
        x, y = setup.batch(step)
        loss = setup.loss_fn(setup.model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
    return losses


def limit_of(setup: Setup) -> tuple[float, float, int]:
    """Return sharpness, largest stable learning rate and products with the Hessian."""
    found = preflight(
        setup.model,
        setup.optimizer(1e-3),
        setup.loss_fn,
        setup.batch(0),
        curvature=True,
        rules=NO_RULES,
    )
    assert found.curvature is not None, found.notes
    return found.curvature.sharpness, found.curvature.largest_stable_lr, found.curvature.iterations


def built(kind: str, seed: int) -> Setup:
    torch.default_generator.manual_seed(seed)
    return KINDS[kind]()


def run(kind: str, seed: int, warmups: tuple[int, ...]) -> dict[str, object]:
    """Measure one network, then train it at multiples of its limit."""
    sharpness, limit, iterations = limit_of(built(kind, seed))
    rows = []
    for warmup in warmups:
        for ratio in RATIOS:
            losses = train(built(kind, seed), ratio * limit, warmup, STEPS)
            finite = all(map(math.isfinite, losses))
            rose = max(losses[:100]) / losses[0] if finite else math.inf
            end = statistics.fmean(losses[-10:]) if finite else math.inf
            rows.append({"ratio": ratio, "warmup": warmup, "rose": rose, "end": end})
    first, best = losses_at_start(kind, seed), min(r["end"] for r in rows)
    for row in rows:
        row["lost"] = not row["end"] < best + 0.2 * (first - best)
        row["rose"], row["end"] = (round(min(row[k], 1e9), 4) for k in ("rose", "end"))
    return {"sharpness": sharpness, "limit": limit, "products": iterations, "runs": rows}


def losses_at_start(kind: str, seed: int) -> float:
    return train(built(kind, seed), 0.0, 0, 1)[0]


def table(results: dict[str, list[dict[str, object]]], warmup: int) -> dict[str, list[str]]:
    """Return, for each kind, how many seeds were lost at each ratio and how far the loss rose."""
    shown = {}
    for kind, seeds in results.items():
        cells = []
        for ratio in RATIOS:
            rows = [
                r for s in seeds for r in s["runs"] if r["ratio"] == ratio and r["warmup"] == warmup
            ]
            rose = statistics.median(r["rose"] for r in rows)
            cells.append(f"{sum(r['lost'] for r in rows)}/{len(rows)} {min(rose, 999):.3g}")
        shown[kind] = cells
    return shown


def main() -> None:
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warmups = (0, 50)
    results = {k: [run(k, s, warmups) for s in range(options.seeds)] for k in KINDS}
    print("lost runs, and median rise of the loss, by learning rate / largest stable one")
    for warmup in warmups:
        print(f"\nwarmup {warmup:<26}" + "".join(f"{r:>11g}" for r in RATIOS))
        for kind, cells in table(results, warmup).items():
            print(f"{kind:<33}" + "".join(f"{c:>11}" for c in cells))
    if not options.no_save:
        settings = {"ratios": RATIOS, "steps": STEPS, "warmups": warmups}
        measure.save("curvature", torch.device("cpu"), {**settings, "results": results})


if __name__ == "__main__":
    main()
