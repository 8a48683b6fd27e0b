"""A step that was left out is made a second time: its gradient may have been damaged by chance."""

import math

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.guard._change import Change
from trimtab.guard._chronicle import Chronicle
from trimtab.guard._gear import Gear
from trimtab.guard._investigation import Investigation
from trimtab.guard._naming import is_narrow
from trimtab.guard._outcome import Outcome
from trimtab.guard._standing import Standing
from trimtab.guard._tape import TapeStep


class SecondTry:
    """Makes a step again that was left out, if it is sound the second time.

    Args:
        gear: Of the guard.
        standing: Where the run stands.
        chronicle: Where such a step is entered.
    """

    def __init__(self, gear: Gear, standing: Standing, chronicle: Chronicle) -> None:
        self._gear, self._standing, self._chronicle = gear, standing, chronicle

    def _try_wide(self, step: TapeStep, case: Investigation) -> None:
        """See whether a step that is not finite in 16 bits is sound in float32."""
        gear = self._gear
        assert gear.replayer is not None
        random = random_state()
        try:
            losses, norms = gear.replayer.measure([step], Change(precision="fp32"))
        except Exception:  # noqa: BLE001 # of the user's own code: then it is not known
            losses, norms = [math.nan], [math.nan]
        finally:
            restore_random_state(random)
        if not gear.agree(case.yardstick.is_bad(losses[0], norms[0], step.which)):
            self._standing.overflowed = step.number

    def succeeds(self, outcome: Outcome, number: int) -> bool:
        """Make the step again if that is right; return whether it was made."""
        gear, standing = self._gear, self._standing
        step, replayer = outcome.tape, gear.replayer
        if replayer is None or not outcome.skipped or len(standing.streak) > 1:
            return False
        if gear.agree(step is None) or step is None:
            return False
        case = gear.investigation(
            [], [step], [], None, first_bad=number, limits=standing.every_limit
        )
        if not case.can_replay([step]):  # or it uses gradients of earlier steps
            return False
        if gear.agree(step.own_clip is not None and step.own_clip.max_norm is None):
            return False  # its norm would be another one in any case
        random = random_state()
        try:
            losses, norms = replayer.measure([step])
        except Exception:  # noqa: BLE001 # of the user's own code: the step stays left out
            losses, norms = [math.nan], [math.nan]
        finally:
            restore_random_state(random)
        same = losses[0] == outcome.loss and norms[0] == outcome.norm
        if gear.agree(same or case.yardstick.is_bad(losses[0], norms[0], step.which)):
            if is_narrow([step]) and not math.isfinite(losses[0] + norms[0]):
                self._try_wide(step, case)
            return False
        standing.end_streak()
        standing.flags[-1] = False
        standing.num_made_again += 1
        stale = number <= standing.stale_until  # made at a rate that is held down since
        if not stale:
            row = case.row(
                Change(), losses, norms, math.nan, 0.0, healed=True, reproduced=False, steps=[step]
            )
            self._chronicle.enter_made_again(step, row)
        gear.keeper.put_back(skip=True)  # of the forward passes that are under way
        change = Change(lr_cap=gear.rates.cap if stale else None)
        replayer.run([step], change, decide=lambda *_: False)
        restore_random_state(random)
        gear.keeper.renew()
        gear.tape.drop_after(number - 1)
        standing.next_snapshot = number + 1
        standing.goes_on_from_replay = True
        gear.take_snapshot(standing.number)  # the tape begins anew there
        return True
