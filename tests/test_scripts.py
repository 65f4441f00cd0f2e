"""Launchers: a dry run prints what is executed otherwise, word for word; mistakes are refused."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from places import ROOT

RULES = "--config.sharding.rules=((\"a b$\", (None, 'tensor')),)"
CLOUD = ["cloud_tpu.sh", "--name=pod", "--zone=us-z"]
SLURM = ["slurm.sh", "--nodes=2", "--gpus=8"]
GKE = ["gke_jobset.sh", "--name=run", "--image=i:1", "--hosts=4", "--claim=c"]
STORAGE = "--config.sweep.storage=journal:/shared/a sweep.journal"
ARRAY = ["slurm_sweep.sh", "--workers=3", "--gpus=1"]
SLICES = ["tpu_sweep.sh", "--names=one,two", "--zone=us-z"]
TPU = ["--tpu=tpu-v5-lite-podslice", "--topology=4x4", "--chips=4"]

# Says what it was given and on stdin; a false `srun` does what a stopped run does.
RECORD = r"""#!/usr/bin/env bash
name="$(basename "$0")"
{ printf '%s ' "$name"; printf '%q ' "$@"; printf '\n'; } >>"$RECORD"
case "$name" in
  srun) echo "  1%| bar| stopped by SIGTERM: step 3 is saved in x" ;;
  sbatch|kubectl) cat >"$RECORD.stdin" ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """Return a function that runs a script where every command it calls only records itself."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "gcloud", "sbatch", "srun", "scontrol", "kubectl"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "SLURM_JOB_ID": "77",
    }

    def run(*words, stdin=None):
        command = [str(ROOT / "scripts" / words[0]), *words[1:]]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, input=stdin
        )

    run.record, run.environment = tmp_path / "record", environment
    return run


def main(tmp_path, *more):
    return ["--", "--config=configs/digits.py", f"--workdir={tmp_path / 'a run'}", RULES, *more]


@pytest.mark.parametrize(
    "words",
    [
        CLOUD,
        [*CLOUD, "--project=p", "--setup=yes"],
        SLURM,
        [*GKE, *TPU],
        [*GKE, "--gpus=8"],
        ARRAY,
        SLICES,
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_a_dry_run_prints_what_is_executed_and_does_nothing(machine, tmp_path, words):
    more = [STORAGE] * (words in (ARRAY, SLICES))
    said = machine(*words, "--dry-run", *main(tmp_path, *more))
    assert said.returncode == 0, said.stderr
    assert not machine.record.exists() and not (tmp_path / "a run").exists()
    done = machine(*words, *main(tmp_path, *more))
    assert done.returncode == 0, done.stderr
    if words is SLICES:  # started side by side
        assert sorted(said.stdout.splitlines()) == sorted(done.stdout.splitlines())
        assert sorted(machine.record.read_text().split("\n")) == sorted(done.stdout.split("\n"))
        return
    assert said.stdout.startswith(done.stdout)
    calls = [shlex.split(line) for line in machine.record.read_text().splitlines()]
    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line for line in printed if line[0] != "mkdir"] == calls
    given = Path(f"{machine.record}.stdin")
    if given.exists():
        assert said.stdout == done.stdout + given.read_text()


def test_cloud_tpu_starts_every_worker_with_the_words_as_they_are(machine, tmp_path):
    machine(*CLOUD, *main(tmp_path))
    call = shlex.split(machine.record.read_text())
    assert call[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert "--worker=all" in call
    remote = shlex.split(call[-1].removeprefix("--command=").partition("&& ")[2])
    expected = [".venv/bin/python", "main.py", *main(tmp_path)[1:]]
    assert remote == [*expected, "--config.hosts.coordinator=auto"]


def test_slurm_queues_a_run_again_that_was_stopped(machine, tmp_path):
    machine(*SLURM, *main(tmp_path))
    batch = Path(f"{machine.record}.stdin").read_text()
    machine.record.unlink()
    done = subprocess.run(
        ["bash"], input=batch, env=machine.environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    srun, requeue = map(shlex.split, machine.record.read_text().splitlines())
    assert srun[1:4] == ["--kill-on-bad-exit=1", ".venv/bin/python", "main.py"]
    assert srun[4:] == main(tmp_path)[1:] and requeue == ["scontrol", "requeue", "77"]


def test_slurm_gives_the_status_of_a_run_that_failed(machine, tmp_path):
    machine(*SLURM, *main(tmp_path))
    batch = Path(f"{machine.record}.stdin").read_text()
    (tmp_path / "programs" / "srun").write_text("#!/usr/bin/env bash\nexit 3\n")
    machine.record.unlink()
    done = subprocess.run(["bash"], input=batch, env=machine.environment, text=True)
    assert done.returncode == 3 and not machine.record.exists()


@pytest.mark.parametrize("devices", [TPU, ["--gpus=8", "--accelerator=nvidia-h100-80gb"]])
def test_a_jobset_is_whole_and_its_command_runs_and_passes_sigterm_on(machine, tmp_path, devices):
    machine(*GKE, *devices, *main(tmp_path))
    jobset = yaml.safe_load(Path(f"{machine.record}.stdin").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["containers"][0]["image"] == "i:1"
    assert list(pod["containers"][0]["resources"]["limits"].values()) in ([4], [8])
    assert len(pod["nodeSelector"]) == (2 if devices is TPU else 1)
    # The command as a host would run it, with a python that waits for a signal.
    words = tmp_path / "words"
    python = tmp_path / "programs" / "python"
    python.write_text(
        f"#!/usr/bin/env bash\nprintf '%s\\n' \"$@\" >{words}.partial\n"
        f"trap 'echo saved >{tmp_path}/saved; exit 0' TERM\nmv {words}.partial {words}\n"
        f"while :; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    process = subprocess.Popen(
        [*pod["containers"][0]["command"], *pod["containers"][0]["args"]],
        env=machine.environment | {"JOB_COMPLETION_INDEX": "2"},
    )
    while not words.exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=60) == 143, "the host would not be started again"
    assert (tmp_path / "saved").exists()
    hosts = ["coordinator=run-hosts-0-0.run:8476", "count=4", "index=2"]
    expected = ["main.py", *main(tmp_path)[1:], *(f"--config.hosts.{one}" for one in hosts)]
    assert words.read_text().splitlines() == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*CLOUD[:2], "--"], "main.py's own options are missing"),
        ([*CLOUD[:2], "--", "--config=a", "--workdir=b"], "--zone is missing"),
        ([*CLOUD, "--", "--config=a"], "main.py needs --config=... and --workdir=..."),
        ([*CLOUD, "--worker=all", "--", "--config=a"], "unknown option --worker"),
        ([*CLOUD, "--folder=a;b", "--", "--config=a", "--workdir=b"], "use letters, digits"),
        ([*SLURM, "now"], "unexpected argument now"),
        ([*SLURM[:2], "--gpus=0", "--", "--config=a", "--workdir=b"], "is not a number above 0"),
        ([*GKE, "--", "--config=a", "--workdir=b"], "give --tpu="),
        ([*GKE, *TPU, "--gpus=1", "--", "--config=a", "--workdir=b"], "not both"),
        ([*GKE, "--tpu=x", "--", "--config=a", "--workdir=b"], "--topology is missing"),
        ([*ARRAY, "--", "--config=a", "--workdir=b"], "needs --config.sweep.storage=postgresql"),
        (
            [*ARRAY, "--", "--config=a", "--workdir=b", "--config.sweep.storage=sqlite:///x.db"],
            "which all machines reach",
        ),
        ([*SLICES, "--", "--config=a", "--workdir=b"], "needs --config.sweep.storage=postgresql"),
        ([*ARRAY[:1], "--gpus=1", "--", "--config=a", "--workdir=b"], "--workers is missing"),
        ([GKE[0], "--name=Run", *GKE[2:], "--gpus=1", "--", "--config=a", "--workdir=b"], "lower"),
    ],
)
def test_mistakes_are_refused_in_one_line(machine, words, message):
    result = machine(*words)
    assert result.returncode == 1 and not machine.record.exists()
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_an_element_of_a_sweep_that_was_told_to_stop_is_queued_again(machine, tmp_path):
    machine(*ARRAY, *main(tmp_path, STORAGE))
    call = shlex.split(machine.record.read_text())
    assert "--array=1-3" in call and "--requeue" in call
    batch = Path(f"{machine.record}.stdin").read_text()
    machine.record.unlink()
    stopping = RECORD.replace("stopped by SIGTERM: step 3", "stopped by SIGTERM: trials that")
    (tmp_path / "programs" / "srun").write_text(stopping)
    element = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash"], input=batch, env=machine.environment | element, text=True)
    srun, requeue = map(shlex.split, machine.record.read_text().splitlines())
    assert done.returncode == 0 and requeue == ["scontrol", "requeue", "77_2"]
    assert srun[1:] == [".venv/bin/python", "main.py", *main(tmp_path, STORAGE)[1:], "--mode=sweep"]


def test_a_sweep_on_slices_starts_one_worker_on_each(machine, tmp_path):
    machine(*SLICES, *main(tmp_path, STORAGE))
    calls = sorted(machine.record.read_text().splitlines())
    assert [shlex.split(call)[5] for call in calls] == ["one", "two"]
    assert all("--mode=sweep" in shlex.split(call)[-1] for call in calls)


SCRIPTS = ["cloud_tpu.sh", "slurm.sh", "gke_jobset.sh", "slurm_sweep.sh", "tpu_sweep.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_scripts_own_words(machine, script):
    result = machine(script, "--help")
    assert result.returncode == 0 and f"scripts/{script} " in result.stdout
