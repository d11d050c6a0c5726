import subprocess
import sys

from catdog.training.trainer import first_loss


def test_the_controller_which_unpickles_these_classes_imports_no_tensorflow() -> None:
    program = "import sys, catdog.training.trainer; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False).returncode == 0


def test_the_worker_that_was_lost_first_is_named_and_not_those_that_miss_it() -> None:
    lost = RuntimeError("The actor died unexpectedly before finishing this task. More about it.")
    missing = RuntimeError("CollectiveOpError: Collective ops is aborted by: worker 1")
    assert first_loss({0: missing, 1: lost}) == "worker 1: The actor died unexpectedly before finishing this task"
    assert first_loss({0: missing, 2: missing}) == "worker 0, 2 lost the connection to the others"
