import json
import logging
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import resight
from resight.__main__ import main
from resight.cli.app import app
from resight.commands.check import CheckReport
from resight.datasets.build import BuildReport
from resight.dialect import load_config
from resight.errors import Problem, ResightError

SOURCE = str(Path(resight.__file__).parents[1])
VERBS = ["demo", "data", "train", "evaluate", "predict", "export", "serve", "runs", "doctor", "zoo", "cloud"]


def speak(line="", *words):
    """Runs ``resight LINE WORDS...`` in this process."""
    result = CliRunner().invoke(app, [*line.split(), *map(str, words)])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def process(*command, **options):
    environment = os.environ | {"PYTHONPATH": SOURCE, "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment, **options
    )


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a function in the place of a verb's own and records how it was called."""

    def replace(module, name, result=None, error=None):
        calls = []

        def function(*args, **options):
            calls.append((args, options))
            if error is not None:
                raise error
            return result

        monkeypatch.setitem(sys.modules, f"resight.{module}", SimpleNamespace(**{name: function}))
        return calls

    return replace


def report(text="the table", **fields):
    return SimpleNamespace(text=lambda: text, json=lambda: fields, **fields)


# What is there


def test_help_names_what_exists_and_nothing_of_later():
    text = speak("--help").out
    shown = re.findall(r"^[│ ]*([a-z]+)  ", text, re.MULTILINE)
    assert [verb for verb in shown if verb in [*VERBS, "deploy"]] == [
        "demo", "data", "train", "evaluate", "predict", "export", "serve", "runs", "doctor", "zoo", "cloud",
    ]  # fmt: skip


def test_without_a_verb_the_help_is_shown():
    assert speak() == speak("--help")
    assert speak("data") == speak("data --help")
    assert speak("zoo") == speak("zoo --help")
    assert speak("cloud") == speak("cloud --help")
    assert speak().code == 0


@pytest.mark.parametrize(
    "verb",
    [[], ["data", "build"], ["train"], ["evaluate"], ["predict"], ["zoo", "fetch"], ["cloud"], ["cloud", "launch"]],
    ids=str,
)
def test_help_imports_nothing_heavy(verb):
    script = (
        "import sys\n"
        "from resight.cli.app import app\n"
        f"try: app({[*verb, '--help']})\n"
        "except SystemExit: print(sorted(sys.modules), file=sys.stderr)\n"
    )
    loaded = set(eval(process("-c", script).stderr))
    assert "resight.cli.app" in loaded
    assert not loaded & {
        "torch",
        "torchvision",
        "timm",
        "tensorflow",
        "numpy",
        "PIL",
        "google.protobuf",
        "boto3",
        "obstore",
        "resight.config.tree",
    }


def test_the_package_is_light_and_gives_its_names_when_asked():
    script = (
        "import sys, resight\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'typer'} & set(sys.modules)\n"
        "print(heavy, resight.Box('stop', 1, 2, 3, 4).xyxy, 'load' in dir(resight), hasattr(resight, 'lood'))"
    )
    assert process("-c", script).stdout == "set() (1, 2, 3, 4) True False\n"


def test_the_version_is_that_of_the_package():
    assert speak("--version").out == f"resight {resight.__version__}\n"
    assert process("-m", "resight", "--version").stdout == f"resight {resight.__version__}\n"


# What the user got wrong


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["data", "biuld", "x"], "unknown command 'biuld'. Did you mean 'build'?"),
        (["check", "photos"], "Did you mean 'resight data check'?"),
        (["deploy"], "resight knows demo, data, train"),
        (["zoo", "fetsh", "x"], "unknown command 'fetsh'. Did you mean 'fetch'?"),
        (["zoo", "fetch", "no_such_model"], "no_such_model: there is no such file, and no such model in the zoo"),
        (["train", "--epoch", "3"], "unknown option '--epoch'. Did you mean '--epochs'?"),
        (["data", "build", "x", "--split-by", "y"], "unknown option '--split-by'. Did you mean '--split'?"),
        (["export", "run", "--format", "onxx"], "is not one of 'onnx', 'openvino', 'savedmodel'. Did you mean 'onnx'?"),
        (["--versoin"], "Did you mean '--version'?"),
        (["data", "build", "x"], "'--out'"),
        (["predict", "model"], "INPUT"),
        (["train", "--epochs", "many"], "'--epochs'"),
        (["predict", "m", "i", "--score", "7"], "'--score'"),
        (["train", "--size", "600"], "--size: '600' is not of the form MIN,MAX"),
        (["train", "--set", "train.sede=1"], "unknown key 'train.sede'. Did you mean 'train.seed'?"),
        (["train", "--set", "seed"], "'seed' is not of the form key=value"),
        (["train", "none.toml"], "none.toml: cannot be read"),
        (["train"], "resight train --data RECORDS"),
        (["train", "--resume"], "resight train --resume -o RUN"),
        (["runs", "--log-format", "xml"], "'--log-format': 'xml'"),
        (["data", "check", ""], "DATA: is empty"),
        (["data", "build", "x", "-o", ""], "--out: is empty"),
        (["data", "build", "x", "-o", "y", "--classes", ""], "--classes: is empty"),
        (["data", "build", "x", "-o", "y", "--classes", " , "], "--classes: ' , ' names no class"),
        (["evaluate", ""], "MODEL: is empty"),
        (["predict", "m", "a.jpg", ""], "INPUT...: is empty"),
        (["data", "build", "x", "-o", "y", "--rename", "stop"], "--rename: 'stop' is not of the form OLD=NEW"),
        (
            ["data", "build", "x", "-o", "y", "--rename", "a=b", "--rename", "a=c"],
            "--rename: 'a=b' and 'a=c' contradict each other",
        ),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_message(words, answer):
    said = speak("", *words)
    assert (said.code, said.out) == (2, "")
    assert answer in said.err
    assert said.err.startswith("error: ") and said.err.count("error: ") == 1
    assert "Traceback" not in said.err


def test_an_error_says_what_where_and_how_to_mend_it(stand_in):
    stand_in("commands.check", "check_data", error=ResightError("is empty", where="photos", fix="Put images there."))
    said = speak("data check photos")
    assert (said.code, said.out, said.err) == (2, "", "error: photos: is empty\n  Put images there.\n")


def test_debug_adds_the_traceback(stand_in):
    stand_in("commands.check", "check_data", error=ResightError("is empty"))
    said = speak("data check photos --debug")
    assert said.code == 2
    assert "Traceback" in said.err and said.err.endswith("error: is empty\n")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ModuleNotFoundError("no", name="onnxruntime"), "pip install 'resight[onnx]'"),
        (OSError(28, "No space left on device", "records"), "records: No space left on device"),
        (MemoryError(), "smaller --batch"),
    ],
)
def test_a_wrong_environment_is_no_bug_of_ours(stand_in, error, answer):
    stand_in("commands.check", "check_data", error=error)
    said = speak("data check photos")
    assert said.code == 2
    assert answer in said.err


def test_a_bug_of_ours_leaves_a_log_and_exit_code_70(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stand_in("commands.check", "check_data", error=KeyError("boxes"))
    said = speak("data check photos")
    assert (said.code, said.out) == (70, "")
    assert "internal error: KeyError: 'boxes'" in said.err and "Traceback" not in said.err
    (written,) = tmp_path.iterdir()
    assert str(written) in said.err
    content = written.read_text()
    assert "Traceback" in content and "['data', 'check', 'photos']" in content and resight.__version__ in content


def test_a_missing_module_of_our_own_is_a_bug(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stand_in("commands.check", "check_data", error=ModuleNotFoundError("no", name="resight.data.nothing"))
    assert speak("data check photos").code == 70


def interrupted(script, *, ignored=False, by=signal.SIGINT):
    """What becomes of ``script`` when Ctrl-C meets it after it has printed "ready"."""
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCE},
        # A test run in the background is one that ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    running.send_signal(by)
    _, said = running.communicate(timeout=60)
    return running.returncode, said


def test_ctrl_c_ends_with_130():
    script = (
        "import sys, time, types\n"
        "def check(*a, **k):\n    print('ready', flush=True); time.sleep(60)\n"
        "sys.modules['resight.commands.check'] = types.SimpleNamespace(check_data=check)\n"
        "sys.argv = ['resight', 'data', 'check', 'photos']\n"
        "from resight.__main__ import main\n"
        "main()\n"
    )
    assert interrupted(script) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    ("by", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_what_a_verb_was_writing_vanishes_with_it(tmp_path, by, code, says):
    script = (
        "import sys, time, types\n"
        "def export(model, format, out, **options):\n"
        "    from resight.io.outputs import atomic_folder\n"
        "    with atomic_folder(out, False, None) as folder:\n"
        "        (folder / 'half').touch(); print('ready', flush=True); time.sleep(60)\n"
        "sys.modules['resight.exporting.export'] = types.SimpleNamespace(export=export)\n"
        f"sys.argv = ['resight', 'export', 'run', '-o', {str(tmp_path / 'out')!r}]\n"
        "from resight.__main__ import main\n"
        "main()\n"
    )
    assert interrupted(script, by=by) == (code, f"Reading run\nerror: {says}\n")
    assert not list(tmp_path.iterdir())


WHILE_IT_IMPORTS = (
    "import sys, time\n"
    "class Slow:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name == 'typer':\n"
    "            print('ready', flush=True)\n"
    "            time.sleep({seconds})\n"
    "sys.meta_path.insert(0, Slow())\n"
    "sys.argv = ['resight', '--version']\n"
    "from resight.__main__ import main\n"
    "main()\n"
)


def test_ctrl_c_ends_with_130_also_while_the_program_is_still_being_imported():
    assert interrupted(WHILE_IT_IMPORTS.format(seconds=60)) == (130, "error: interrupted\n")


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it():
    assert interrupted(WHILE_IT_IMPORTS.format(seconds=0.2), ignored=True) == (0, "")


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('"$PYTHON" "$SCRIPT" | true; exit ${PIPESTATUS[0]}', 1),
        ('"$PYTHON" "$SCRIPT" | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}', 1),
        ('"$PYTHON" "$SCRIPT" >&-', 1),
        ('"$PYTHON" "$SCRIPT" > /dev/full', 1),
    ],
)
def test_the_exit_code_is_the_verbs_also_where_nobody_reads_to_the_end(tmp_path, shell, code):
    script = tmp_path / "check.py"
    script.write_text(
        "import sys, types\n"
        "error = types.SimpleNamespace(kind='bad_box')\n"
        "report = types.SimpleNamespace(errors=[error], format='voc', text=lambda: 'a long table\\n' * 50_000)\n"
        "sys.modules['resight.commands.check'] = types.SimpleNamespace(check_data=lambda *a, **k: report)\n"
        "sys.argv = ['resight', 'data', 'check', 'photos']\n"
        "from resight.__main__ import main\n"
        "main()\n"
    )
    environment = os.environ | {"PYTHONPATH": SOURCE, "PYTHON": sys.executable, "SCRIPT": str(script)}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, env=environment)
    said = done.stderr
    assert done.returncode == code
    assert "Traceback" not in said and "internal error" not in said and "Exception ignored" not in said
    assert ("No space left" in said) == ("full" in shell)


# How results and messages are told apart


def finding(level):
    return Problem(level, "empty_box", "a.xml:3", "has no area")


def checked(errors=(), warnings=(), counts=None, format="voc"):
    found = CheckReport("photos", format, tuple(errors), tuple(warnings), counts or {})
    return SimpleNamespace(errors=found.errors, format=format, text=lambda: "the table", json=found.json)


def test_check_exits_1_when_anything_is_an_error(stand_in):
    for errors, code in (((), 0), ((finding("error"),), 1)):
        stand_in("commands.check", "check_data", checked(errors, (finding("warning"),)))
        said = speak("data check", "my photos")
        assert (said.code, said.out) == (code, "the table\n")
        assert "resight data build 'my photos' -o records" in said.err


def test_check_names_the_next_step_for_what_was_checked(stand_in):
    for format, command in (("voc", "data build photos -o records"), ("records", "train --data photos")):
        stand_in("commands.check", "check_data", checked(format=format))
        assert speak("data check photos").err == f"Next: resight {command}\n"


def test_json_on_stdout_is_one_document(stand_in):
    stand_in("commands.check", "check_data", checked(counts={"images": 3}))
    said = speak("data check photos --json")
    assert json.loads(said.out) == {"errors": [], "warnings": [], "counts": {"images": 3}}
    assert "Next: " in said.err


def test_quiet_leaves_only_the_result(stand_in):
    stand_in("commands.check", "check_data", checked())
    said = speak("data check photos --quiet")
    assert (said.out, said.err) == ("the table\n", "")


def test_messages_as_json_lines(stand_in, monkeypatch):
    stand_in("commands.check", "check_data", checked())
    lines = [json.loads(line) for line in speak("data check photos --log-format json").err.splitlines()]
    assert [line["message"] for line in lines] == ["Next: resight data build photos -o records"]
    stand_in("commands.check", "check_data", error=ResightError("is empty", where="photos"))
    (line,) = speak("data check photos --log-format json").err.splitlines()
    assert {"level": "error", "message": "photos: is empty"}.items() <= json.loads(line).items()


def test_the_logging_of_the_process_is_left_as_it_was(stand_in):
    log = logging.getLogger("resight")
    before = (log.handlers, log.propagate, log.level)
    stand_in("commands.check", "check_data", checked())
    speak("data check photos")
    assert (log.handlers, log.propagate, log.level) == before


# What each verb hands to its function


def test_build_hands_over_its_options(stand_in):
    counts = {"train": {"stop": 2}, "test": {"stop": 1}}
    built = BuildReport(
        "records", "photos (voc)", "group", ("stop",), {"train": 2, "test": 1}, counts, 0.0, {"track": 0},
        problems=(finding("warning"),),
    )  # fmt: skip
    calls = stand_in("datasets.build", "build_data", built)
    said = speak(
        "data build photos -o records --classes stop,yield --rename halt=stop --labels old.pbtxt --split group "
        "--group-by video --test-fraction .3 --val-fraction 0 --seed 7 --shards 2 --background all "
        "--on-bad skip --exif stored --layout tfod --format voc --force --json"
    )
    assert calls == [
        (
            ("photos", "records"),
            {
                "format": "voc", "classes": ("stop", "yield"), "rename": {"halt": "stop"}, "labels": "old.pbtxt",
                "split": "group", "group_by": "video", "test_fraction": 0.3, "val_fraction": 0.0, "seed": 7,
                "shards": 2, "background": "all", "on_bad": "skip", "exif": "stored", "layout": "tfod", "force": True,
            },
        )
    ]  # fmt: skip
    shown = json.loads(said.out)
    assert (shown["counts"], shown["leakage"], shown["problems"]) == (counts, 0.0, [vars(finding("warning"))])
    assert "Wrote records" in said.err and "resight data show records -o look" in said.err


def trained(code=0, run="runs/a", evaluated=""):
    return SimpleNamespace(text=lambda: "done", run=run, exit_code=code, evaluated=evaluated)


def test_train_turns_options_into_configuration(stand_in, tmp_path):
    calls = stand_in("training.train", "train", trained())
    said = speak(
        "train --data records --model resnet18 --start other --size 600,1024 --epochs 3 --batch 2 --device cpu "
        "--seed 7 --max-minutes 5 --set train.seed=8 --set augment.flip=0 -o runs/a"
    )
    ((config, out), options), = calls  # fmt: skip
    assert (out, options) == ("runs/a", {"resume": False, "dry_run": False, "devices": 1, "pipeline": None})
    assert config == load_config(
        None,
        {
            "data.path": "records", "model.name": "resnet18", "model.start": "other", "model.min_size": 600,
            "model.max_size": 1024, "train.epochs": 3, "train.batch_size": 2, "train.device": "cpu",
            "train.seed": 8, "train.max_minutes": 5, "augment.flip": 0,
        },
    )  # fmt: skip
    assert (said.code, said.out) == (0, "done\n")
    assert said.err.startswith("Reading records\n") and "resight evaluate runs/a" in said.err


def test_an_option_replaces_the_other_measure_of_length(stand_in, tmp_path):
    (tmp_path / "a.toml").write_text('[data]\npath = "records"\n[train]\nsteps = 500\n')
    calls = stand_in("training.train", "train", trained())
    speak("train", tmp_path / "a.toml", "--epochs", 2)
    speak("train", tmp_path / "a.toml", "--max-minutes", 2)
    speak("train", tmp_path / "a.toml", "--set", "train.max_minutes=2", "--steps", 7)
    speak("train", tmp_path / "a.toml", "--batch", 3)
    (tmp_path / "a.toml").write_text('[data]\npath = "records"\n[train]\nmax_minutes = 9\nepochs = 4\n')
    speak("train", tmp_path / "a.toml", "--steps", 2)
    speak("train", tmp_path / "a.toml")
    lengths = [(config.train.epochs, config.train.steps, config.train.max_minutes) for ((config, _), _) in calls]
    assert lengths == [
        (2, None, None), (None, None, 2), (None, 7, 2), (None, 500, None), (None, 2, None), (4, None, 9)
    ]  # fmt: skip


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_exit_code_of_a_training_is_handed_on(stand_in, code):
    stand_in("training.train", "train", trained(code))
    said = speak("train --data records")
    assert said.code == code
    assert ("Next: resight evaluate" in said.err) == (code == 0)


def test_a_training_is_done_also_where_its_evaluation_cannot_be_reported(stand_in, tmp_path):
    stand_in("training.train", "train", trained(run=tmp_path / "gone", evaluated="val"))
    said = speak("train --data records")
    assert (said.code, said.out) == (0, "done\n") and "no report: " in said.err and "there is no such run" in said.err


def test_show_config_prints_the_resolved_configuration_and_trains_nothing(stand_in, tmp_path):
    calls = stand_in("training.train", "train", trained())
    said = speak("train", "--show-config", "--seed", 7)
    assert (said.code, said.err, calls) == (0, "", [])
    (tmp_path / "shown.toml").write_text(said.out)
    assert load_config(tmp_path / "shown.toml") == load_config(None, {"train.seed": 7})


def test_a_pipeline_config_trains_with_options_in_the_place_of_its_own(stand_in, tmp_path, least_pipeline):
    calls = stand_in("training.train", "train", trained())
    (tmp_path / "pipeline.config").write_text(least_pipeline('use_bfloat16: true fine_tune_checkpoint: "gone/ckpt-0"'))
    said = speak("train", tmp_path / "pipeline.config", "--data", "records", "--start", "none", "--batch", 3)
    ((config, _), _), = calls  # fmt: skip
    assert said.code == 0
    assert (config.model.name, config.model.start, config.data.path) == ("faster_rcnn_resnet50_v1", "none", "records")
    assert (config.train.optimizer, config.train.steps, config.train.batch_size) == ("momentum", 10, 3)
    said = speak("train", tmp_path / "pipeline.config")
    assert said.code == 2
    for part in ("gone/ckpt-0", "--start MODEL", "--data RECORDS", "train_input_reader.label_map_path: is not given"):
        assert part in said.err
    assert len(calls) == 1


def test_show_config_ends_with_what_became_of_a_pipeline_config(tmp_path, least_pipeline):
    text = least_pipeline('use_bfloat16: true fine_tune_checkpoint: "gone/ckpt-0"')
    (tmp_path / "pipeline.config").write_text(text)
    said = speak("train", tmp_path / "pipeline.config", "--show-config")
    assert said.code == 0
    assert re.search(r"# honoured:\n(#   line .*\n)+# ignored:\n(#   .*\n)+# refused: nothing\n# missing:\n", said.out)
    assert "train_config.use_bfloat16: true (" in said.out
    (tmp_path / "shown.toml").write_text(said.out)
    assert load_config(tmp_path / "shown.toml").train.steps == 10
    (tmp_path / "pipeline.config").write_text(text.replace("use_dropout: false", "use_dropout: true"))
    said = speak("train", tmp_path / "pipeline.config", "--show-config")
    assert said.code == 2
    assert re.search(r"# refused:\n#   line 9, .*use_dropout: true", said.out) and "use_dropout: true" in said.err


def test_a_key_of_tfods_is_answered_with_ours():
    said = speak("train --data records --set train_config.num_steps=3")
    assert (said.code, said.out) == (2, "")
    assert "'train_config.num_steps' is 'train.steps' here" in said.err


def test_resume_needs_only_the_run(stand_in, tmp_path):
    (tmp_path / "config.toml").write_text('[data]\npath = "records"\n[train]\nseed = 5\n')
    calls = stand_in("training.train", "train", trained())
    speak("train", "--resume", "-o", tmp_path)
    ((config, out), options), = calls  # fmt: skip
    assert (config.data.path, config.train.seed, out) == ("records", 5, str(tmp_path))
    assert options == {"resume": True, "dry_run": False, "devices": 1, "pipeline": None}


def test_resume_of_a_run_that_is_not_there_says_so(tmp_path):
    done = speak("train --resume -o", tmp_path / "frist")
    assert done.code == 2 and f"{tmp_path / 'frist'} holds no run to continue" in done.err


def test_resume_on_a_folder_without_a_run_starts_one(stand_in, tmp_path):
    calls = stand_in("training.train", "train", trained())
    assert speak("train", "--resume", "-o", tmp_path / "new", "--data", "records").code == 0
    assert calls[0][0][0] == load_config(None, {"data.path": "records"})


def test_evaluate_exits_1_when_a_requirement_is_missed(stand_in):
    for missed, code in (([], 0), (["AP50 is .7, .8 required"], 1)):
        result = report(metrics={"AP50": 0.7}, missed=missed, path="runs/a/evaluation/metrics.json")
        calls = stand_in("evaluation.evaluate", "evaluate", result)
        said = speak("evaluate runs/a --require AP50=.80 --require mAP=.5 --json")
        assert said.code == code
        assert json.loads(said.out) == {"AP50": 0.7}
        assert calls[0][1]["require"] == ("AP50=.80", "mAP=.5")
        assert all(miss in said.err for miss in missed)


def test_parts_name_what_comes_when_all_are_done(stand_in):
    calls = stand_in("evaluation.evaluate", "evaluate", report(metrics={}, missed=[], path="p/part.safetensors"))
    said = speak("evaluate runs/a --part 1/2 --out p")
    assert said.code == 0 and "Next: resight evaluate runs/a --merge p  (when" in said.err
    assert (calls[0][1]["part"], calls[0][1]["merge"]) == ("1/2", None)
    said = speak("evaluate runs/a --part 1/2 --out p --report")
    assert said.code == 2 and "--report: is of all parts together" in said.err
    calls = stand_in("commands.predict", "predict", report(ok=False, path="p/part.jsonl"))
    said = speak("predict runs/a photos --part auto -o p")
    assert (
        said.code == 1 and "Wrote p/part.jsonl" in said.err and "Next: resight predict --merge p -o found" in said.err
    )
    said = speak("predict --merge p -o found")
    assert calls[1][0] == (None, [], "found") and calls[1][1]["merge"] == "p" and "Next" not in said.err


def test_zoo_prints_what_was_fetched_and_hands_over_what_is_converted(stand_in):
    calls = stand_in("tfod.zoo", "fetch", "/cache/zoo/some model")
    said = speak("zoo fetch some_model")
    assert (calls, said.out) == ([(("some_model",), {})], "/cache/zoo/some model\n")
    assert "resight zoo convert '/cache/zoo/some model' -o RUN" in said.err
    calls = stand_in("commands.convert", "convert", "ResNet-50 V1, 6 classes")
    said = speak("zoo convert some_model -o run --config their.config --labels their.pbtxt")
    assert calls == [(("some_model", "run"), {"config": "their.config", "labels": "their.pbtxt"})]
    assert said.out == "ResNet-50 V1, 6 classes\n"
    assert "Next: resight evaluate run --data RECORDS" in said.err


def test_the_zoo_is_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path))
    rows = json.loads(speak("zoo list --json").out)
    assert len(rows) == 9 and not any(row["cached"] for row in rows)
    shown = speak("zoo list").out
    assert all(row["name"] in shown and f"{row['coco_map']}" in shown for row in rows)


def test_predict_and_export_hand_over_their_options(stand_in):
    predictions = stand_in("commands.predict", "predict", report(ok=True))
    assert speak("predict runs/a b.jpg c -o found --score .4 --nms-iou .6 --class-agnostic-nms").code == 0
    assert predictions == [
        (
            ("runs/a", ["b.jpg", "c"], "found"),
            {
                "score": 0.4, "nms_iou": 0.6, "class_agnostic_nms": True, "device": "auto", "force": False,
                "labels": None, "no_labels": False, "detections": None, "precision": "float32",
                "save": None, "crops": False, "no_pictures": False,
                "frame_stride": 1, "jsonl": False, "part": None, "merge": None,
            },
        )
    ]  # fmt: skip
    for ok, code in ((True, 0), (False, 1)):
        exports = stand_in("exporting.export", "export", report(ok=ok, model="a/saved_model"))
        said = speak(
            "export runs/a --format savedmodel -o a --labels m.pbtxt --input-type tf_example --detections 300 "
            "--tune speed --data records --max-ap-loss .01"
        )
        assert said.code == code and ("resight predict a/saved_model" in said.err) is ok
        options = {
            "force": False, "labels": "m.pbtxt", "input_type": "tf_example", "detections": 300,
            "precision": "float32", "tune": "speed", "data": "records", "max_ap_loss": 0.01,
        }  # fmt: skip
        assert exports == [(("runs/a", "savedmodel", "a"), options)]


@pytest.mark.parametrize(
    ("model", "following"),
    [
        ("a.onnx", "evaluate a.onnx --data RECORDS"),
        ("export/saved_model", "evaluate export/saved_model --data RECORDS"),
        ("export", "export export -o model.onnx"),  # both, and then its checkpoint is the model
    ],
)
def test_what_is_exported_is_not_to_be_exported_again(stand_in, tmp_path, monkeypatch, model, following):
    monkeypatch.chdir(tmp_path)
    Path("export/saved_model").mkdir(parents=True)
    Path("export/saved_model/saved_model.pb").touch()
    Path("export/checkpoint").mkdir()
    stand_in("commands.predict", "predict", report(ok=True))
    assert f"Next: resight {following}\n" in speak("predict", model, "b.jpg").err


def test_predict_exits_1_when_an_image_could_not_be_read(stand_in):
    stand_in("commands.predict", "predict", report("two images", ok=False))
    said = speak("predict runs/a photos -o found")
    assert (said.code, said.out) == (1, "two images\n")
    assert "Wrote found" in said.err


def test_show_and_demo_hand_over_their_options(stand_in):
    pictures = stand_in("commands.show", "show_data", ["look/1.jpg", "look/2.jpg"])
    said = speak("data show records -o look --format csv --augment --limit 2 --split val")
    options = {
        "format": "csv",
        "exif": "auto",
        "augment": True,
        "sheet": False,
        "limit": 2,
        "split": "val",
        "config": None,
    }
    options |= {"no_labels": False, "force": False}
    assert pictures == [(("records", "look"), options)]
    assert said.out == "2 pictures in look\n" and "resight data build records -o new_records" in said.err
    assert "resight train --data records" in speak("data show records -o look --format tfrecord").err
    demos = stand_in("commands.demo", "demo", report())
    assert speak("demo", "--seed", 3, "-o", "there").code == 0
    assert demos == [(("there",), {"seed": 3, "force": False})]


def test_the_console_script_is_this_application():
    project = tomllib.loads((Path(SOURCE).parent / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"resight": "resight.__main__:main"}


@pytest.mark.parametrize(
    ("words", "waits"),
    [
        ("train --data records", True),
        ("--debug train pipeline.config", True),
        ("evaluate run --split train", False),
        ("train --data records --dry-run", False),
        ("train --show-config", False),
    ],
)
def test_only_a_training_lets_a_signal_wait_until_it_can_save(monkeypatch, words, waits):
    blocked = []
    monkeypatch.setattr(sys, "argv", ["resight", *words.split()])
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *given: blocked.append(given))
    monkeypatch.setattr("resight.cli.app.app", sys.exit)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert blocked == [(signal.SIG_BLOCK, {signal.SIGTERM})] * waits
