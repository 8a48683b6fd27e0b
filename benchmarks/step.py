"""What a stable step costs: Stepper beside clip_grad_norm_ + AdamW, our loop beside a plain one.

Claims: clipping, per-parameter norms and skipping take at most 0.75x of `clip_grad_norm_` and
`AdamW(fused=True)` at 40 M parameters and never more than 1.00x; the whole training loop takes at
most 1.02x of the shortest loop that does the same arithmetic.

    python benchmarks/step.py
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from measure import arguments, interleave, print_table, ratios, save, timed
from rich.console import Console
from torch import Tensor, nn

from trimtab import Stepper
from trimtab.losses import cross_entropy
from trimtab.recipes import find_recipe
from trimtab.train import RunFolder, Task
from trimtab.train._build import build_optimizer, build_schedule
from trimtab.train._loop import Training
from trimtab.train._progress import Display

SHAPES = {
    "1 M": [(256, 1024)] * 4,
    "10 M": [(1024, 1024)] * 10,
    "40 M": [(1024, 4096)] * 9 + [(1024, 1024)] * 2,
    "1 M in 100 tensors": [(100, 100)] * 100,
}
"""What a step has to move."""

PEER = "clip_grad_norm_ + fused AdamW"


def problem(
    shapes: list[tuple[int, int]], device: torch.device
) -> tuple[nn.ParameterList, list[Tensor]]:
    """Return parameters, and the gradients that each step will get."""
    generator = torch.Generator(device).manual_seed(0)
    random = partial(torch.randn, generator=generator, device=device)
    params = nn.ParameterList([nn.Parameter(random(s) * 0.02) for s in shapes])
    return params, [random(s) for s in shapes]


def loss_of(params: nn.ParameterList, grads: list[Tensor]) -> Tensor:
    """Return a loss whose gradients are `grads`; its making is not timed."""
    return torch.stack([(p * g).sum() for p, g in zip(params, grads, strict=True)]).sum()


def by_hand(
    shapes: list[tuple[int, int]], device: torch.device, *, clip: float | None, **options: bool
) -> Callable[[], float]:
    """Return one step of torch's own parts; the backward pass before it is not timed."""
    params, grads = problem(shapes, device)
    optimizer = torch.optim.AdamW(params.parameters(), lr=1e-6, **options)

    def step() -> None:
        if clip is not None:
            nn.utils.clip_grad_norm_(params.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()

    def once() -> float:
        loss_of(params, grads).backward()
        return timed(step, device)

    return once


def ours(
    shapes: list[tuple[int, int]], device: torch.device, *, clip: float
) -> Callable[[], float]:
    """Return one step of the Stepper; the backward pass before it is not timed."""
    params, grads = problem(shapes, device)
    optimizer = torch.optim.AdamW(params.parameters(), lr=1e-6, weight_decay=0.01, fused=True)
    stepper = Stepper(params, optimizer, clip=clip, schedule="constant")

    def once() -> float:
        stepper.backward(lambda: loss_of(params, grads))
        return timed(stepper.step, device)

    return once


def compare_steps(device: torch.device, rounds: int) -> dict[str, object]:
    """Measure one step at every size."""
    tables: dict[str, object] = {}
    for title, shapes in SHAPES.items():
        contenders = {
            PEER: by_hand(shapes, device, clip=1.0, fused=True),
            "Stepper, clipping": ours(shapes, device, clip=1.0),
            "Stepper, below the threshold": ours(shapes, device, clip=1e9),
            "fused AdamW, no clipping": by_hand(shapes, device, clip=None, fused=True),
            "clip_grad_norm_ + default AdamW": by_hand(shapes, device, clip=1.0),
        }
        tables[title] = table = ratios(interleave(contenders, rounds=rounds), to=PEER)
        print_table(f"one step, {title} parameters", table)
    return tables


def compare_loops(device: torch.device, rounds: int, steps: int = 5) -> dict[str, object]:
    """Measure the training loop of `trimtab train` beside the shortest one written by hand."""
    recipe = find_recipe("gpt")
    config = replace(recipe.default, run=replace(recipe.default.run, device=str(device)))
    total = (rounds + 10) * steps
    config = replace(config, run=replace(config.run, steps=total, eval_every=0, save_every=0))

    def build() -> Task:
        return recipe.build(config, torch.Generator().manual_seed(0))

    task = build()
    model = task.model.to(device)
    optimizer = build_optimizer(model, config.optimizer)
    schedule = build_schedule(optimizer, config.optimizer, total)
    batches = iter(range(total))

    def hand_written() -> None:
        for _ in range(steps):
            inputs, targets = task.batch(next(batches))
            loss = cross_entropy(model(inputs.to(device)), targets.to(device), z_loss=1e-4)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        run.create("")
        display = Display(total, unit="tokens", console=Console(file=io.StringIO()))
        training = Training(build(), config, folder=run, display=display)
        training.task.model.train()

        def complete() -> None:
            for _ in range(steps):
                training._train_step()

        contenders = {
            "shortest loop by hand": lambda: timed(hand_written, device),
            "trimtab train": lambda: timed(complete, device),
        }
        seconds = interleave(contenders, rounds=rounds)
        training.close()
    same = all(
        torch.allclose(a, b, rtol=1e-2, atol=1e-4)
        for a, b in zip(model.parameters(), training.task.model.parameters(), strict=True)
    )
    table = ratios(seconds, to="shortest loop by hand")
    print_table(f"{steps} steps of the gpt recipe (same result: {same})", table)
    return {"table": table, "same_result": same}


def main() -> None:
    """Measure, show, keep."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["step", "loop"])
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    results = {}
    if options.only != "loop":
        results["step"] = compare_steps(device, options.rounds)
    if options.only != "step":
        results["loop"] = compare_loops(device, options.rounds)
    if not options.no_save:
        save("step", device, results)


if __name__ == "__main__":
    main()
