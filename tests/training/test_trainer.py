import subprocess
import sys

from catdog.training.trainer import first_loss, trainer_class


def test_the_controller_which_unpickles_these_classes_imports_no_tensorflow() -> None:
    program = "import sys, catdog.training.trainer; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False).returncode == 0


def test_the_worker_that_was_lost_first_is_named_and_not_those_that_miss_it() -> None:
    lost = RuntimeError("The actor died unexpectedly before finishing this task. More about it.")
    missing = RuntimeError("CollectiveOpError: Collective ops is aborted by: worker 1")
    assert first_loss({0: missing, 1: lost}) == "worker 1: The actor died unexpectedly before finishing this task"
    assert first_loss({0: missing, 2: missing}) == "worker 0, 2 lost the connection to the others"


def run(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


def test_a_driver_has_rays_trainer_without_tensorflow_and_what_uses_it_later_finds_it() -> None:
    program = (
        "import sys\n"
        "from catdog.training.trainer import trainer_class\n"
        "found = trainer_class()\n"
        "print(found.__name__, [name for name in sys.modules if name.partition('.')[0] == 'tensorflow'])\n"
        "from ray.train.tensorflow import TensorflowTrainer, tensorflow_checkpoint\n"
        "print(found is TensorflowTrainer, trainer_class() is found)\n"
        "print(tensorflow_checkpoint.tf.nn.relu(-1.0).numpy(), tensorflow_checkpoint.keras.Sequential.__name__)\n"
    )
    assert run(program).splitlines() == ["TensorflowTrainer []", "True True", "0.0 Sequential"]


def test_a_ray_that_computes_with_tensorflow_when_it_is_imported_gets_it() -> None:
    program = (
        "import sys, types\n"
        "from catdog.training import trainer\n"
        "trainer._import_trainer = lambda: __import__('tensorflow').constant(1).numpy()\n"
        "print(trainer.trainer_class(), type(sys.modules['tensorflow']).__name__)\n"
    )
    assert run(program).splitlines() == ["1 module"]


def test_a_process_that_has_tensorflow_keeps_it() -> None:
    import tensorflow

    assert trainer_class().__name__ == "TensorflowTrainer"
    assert sys.modules["tensorflow"] is tensorflow
