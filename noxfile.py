"""The checks of this repository. Plain ``nox`` runs all of them, and is what CI runs.

Sessions never see the source trees: ``build`` makes the wheels once a run, and every session that runs code
installs those. A plugin takes part by having a folder in ``plugins/``.
"""

import itertools
import os
import re
import shutil
import subprocess
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nox
from nox.logger import logger
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

nox.needs_version = ">=2025.10.14"
# pip takes minutes for what uv, which `pip install "nox[uv]"` brings along, installs in seconds.
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = "CI" in os.environ
# virtualenv would otherwise look for a newer pip behind our back.
os.environ.setdefault("VIRTUALENV_NO_PERIODIC_UPDATE", "1")

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
VERSIONS = ("3.11", "3.12", "3.13")

#: The folder of each distribution, core first.
DISTRIBUTIONS = (
    "core",
    "conformance",
    *sorted(f"plugins/{path.parent.name}" for path in ROOT.glob("plugins/*/pyproject.toml")),
)
PROJECTS: dict[str, dict[str, Any]] = {
    folder: nox.project.load_toml(ROOT / folder / "pyproject.toml") for folder in DISTRIBUTIONS
}
PLUGINS = DISTRIBUTIONS[2:]
#: The distributions of this repository by name: these are installed from `dist`, never from an index.
OURS = {canonicalize_name(project["project"]["name"]): folder for folder, project in PROJECTS.items()}

#: What share of its programs the kit draws for a plugin's file, where that differs little from another that gets all.
BUDGETS = {"test_valkey_xread.py": 0.3, "test_redis7_pubsub.py": 0.3, "test_redis7_xread.py": 0.2}
#: What else goes to the kit for a file. The nodes of a cluster tell clients each other's addresses, around the kit's
#: proxy: faults there are what the plugin's own tests are for.
LEVELS = {"test_cluster.py": ("--conformance-level=L2",)}
#: How many of the kit's files run at once.
RUNS_AT_ONCE = 4
#: The releases of a driver, besides the one in constraints.txt, that a plugin is held to go with.
DRIVERS = {"plugins/deerflow-redis": ("redis==5.2.*", "redis==7.4.*")}

#: A backend in a repository of its own, as a stranger would write it.
EXAMPLE = "examples/third-party-backend"

#: What the session `host` installs beside core: DeerFlow, what that needs but does not declare, and the runner.
HOST = ("deerflow-kernel==0.1.7", "aiosqlite", "email-validator", "sqlalchemy[asyncio]", "pytest")
HOST_PINS = ROOT / "tests/host/constraints.txt"
UV = "uv==0.13.9"


def answer(python: Path, version: str) -> str | None:
    """Return the path that *python* itself gives, or None if it does not start or is not *version*.

    A file of the right name proves nothing: pyenv's shims exist for every version and fail for most.
    """
    script = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
    try:
        run = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found, _, executable = run.stdout.strip().partition(" ")
    return executable if run.returncode == 0 and found == version else None


def find_python(version: str) -> str:
    """Return the path of an interpreter that starts, or *version*, for which nox finds none and says so."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(folder, f"python{version}") for folder in os.get_exec_path()]
    candidates += sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    return next((path for path in (answer(candidate, version) for candidate in candidates) if path), version)


PYTHONS = {version: find_python(version) for version in VERSIONS}
ABSENT = [version for version, python in PYTHONS.items() if python == version]
FIRST = next((version for version in VERSIONS if version not in ABSENT), VERSIONS[0])
#: DeerFlow wants 3.12 or later.
HOST_PYTHON = next((version for version in VERSIONS[1:] if version not in ABSENT), VERSIONS[1])
OTHERS = [version for version in VERSIONS if version != FIRST]
if ABSENT:
    logger.warning(f"no interpreter that starts was found for Python {', '.join(ABSENT)}")


def group(name: str, folder: str = ".") -> list[str]:
    """Return the requirements of the dependency group *name* of the pyproject.toml in *folder*."""
    return list(nox.project.dependency_groups(nox.project.load_toml(ROOT / folder / "pyproject.toml"), name))


def declared(folder: str) -> list[str]:
    """Return what the distribution in *folder* requires, its extras' and its tests' requirements included."""
    project = (PROJECTS.get(folder) or nox.project.load_toml(ROOT / folder / "pyproject.toml"))["project"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    return [*project.get("dependencies", []), *extras, *group("test", folder)]


def theirs(requirements: list[str]) -> list[str]:
    """Return those *requirements* that other people publish."""
    return [line for line in requirements if canonicalize_name(Requirement(line).name) not in OURS]


def wheel(folder: str, *, extras: bool = True) -> str:
    """Return what pip is given to install the built wheel of *folder*, with every extra or with none."""
    name = canonicalize_name(PROJECTS[folder]["project"]["name"])
    (path,) = (path for path in DIST.glob("*.whl") if parse_wheel_filename(path.name)[0] == name)
    wanted = ",".join(PROJECTS[folder]["project"].get("optional-dependencies", {}))
    return f"{path}[{wanted}]" if extras and wanted else str(path)


def install(session: nox.Session, *arguments: str) -> None:
    """Install *arguments* at the pinned versions."""
    session.install("--quiet", "--constraint", str(ROOT / "constraints.txt"), *arguments)


def install_for_tests(session: nox.Session, folder: str) -> None:
    """Install the wheel of *folder*, its extras and test group, and of our other wheels those it asks for."""
    asked = declared(folder)
    names = {canonicalize_name(Requirement(line).name) for line in asked}
    siblings = [wheel(OURS[name], extras=False) for name in sorted(names & OURS.keys()) if OURS[name] != folder]
    install(session, wheel(folder), *siblings, *theirs(group("test", folder)))


def install_everything(session: nox.Session) -> None:
    """Install every wheel with every extra and test group."""
    install(
        session,
        *map(wheel, DISTRIBUTIONS),
        *theirs([line for folder in DISTRIBUTIONS for line in group("test", folder)]),
    )


def quietly(session: nox.Session, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the session's environment and keep what it says, so that several can run at once."""
    environment = {key: value for key, value in session.env.items() if value is not None}
    command = [str(shutil.which(program, path=session.bin)), *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=False, env={**os.environ, **environment})


def run_kits(session: nox.Session, runs: list[tuple[list[str], float]]) -> None:
    """Run the kit's files, for each run what goes to pytest and its budget; some at once, since they mostly wait.

    Each capability has a server of its own. For the kit a plugin has each capability once, hence the several runs.
    """

    def run(arguments: list[str], budget: float) -> subprocess.CompletedProcess[str]:
        # By loadscope a process a capability.
        options = ("--numprocesses=4", "--dist=loadscope", "--quiet", f"--conformance-budget={budget}")
        return quietly(session, "pytest", *options, *arguments, *session.posargs)

    with ThreadPoolExecutor(RUNS_AT_ONCE) as executor:
        done = list(executor.map(lambda one: run(*one), runs))
    failed = []
    for (arguments, budget), result in zip(runs, done, strict=True):
        session.log(f"pytest {' '.join(arguments)} --conformance-budget={budget}: exit code {result.returncode}")
        session.log(result.stdout + result.stderr)
        failed += [arguments[0]] if result.returncode else []
    if failed:
        session.error(f"failed: {', '.join(failed)}")


def kits_of(session: nox.Session, folder: str) -> list[Path]:
    """Return the kit's files of a plugin; those for Redis 7.0 are named as not run where there is none of it."""
    paths = sorted(ROOT.glob(f"{folder}/tests/conformance/test_*.py"))
    if not has_redis7():
        absent = [path.name for path in paths if "redis7" in path.name]
        paths = [path for path in paths if path.name not in absent]
        tell = session.error if "CI" in os.environ else session.warn
        tell(f"Redis 7.0 was not run: {', '.join(absent)} need a redis-server on the PATH")
    return paths


def has_redis7() -> bool:
    """Say whether there is a `redis-server` that is new enough."""
    server = shutil.which("redis-server")
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout if server else ""
    found = re.search(r"\bv=(\d+)", told)
    return found is not None and int(found[1]) >= 7


def has_python(target: str) -> bool:
    """Say whether there is Python at *target*: mypy refuses a folder without any."""
    path = ROOT / target
    return path.is_file() or any(path.rglob("*.py"))


@nox.session(python=PYTHONS[FIRST])
def lint(session: nox.Session) -> None:
    """Ruff finds nothing, and would format nothing differently."""
    install(session, *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=PYTHONS[FIRST])
def types(session: nox.Session) -> None:
    """The sources and the tests hold under mypy's strict rules, at the lowest Python."""
    every = (*DISTRIBUTIONS, EXAMPLE)
    install(session, *group("types"), *theirs([line for folder in every for line in declared(folder)]))
    targets = [f"{folder}/{part}" for folder in DISTRIBUTIONS for part in ("src", "tests")]
    targets += ["noxfile.py", "tests", "docs", "examples", "benchmarks"]
    sources = os.pathsep.join(f"{folder}/src" for folder in every)
    session.run("mypy", *(target for target in targets if has_python(target)), env={"MYPYPATH": sources})


@nox.session(python=PYTHONS[FIRST])
def build(session: nox.Session) -> None:
    """Each sdist builds, its wheel builds from it, and holds what it should and nothing else."""
    install(session, *group("build"))
    shutil.rmtree(DIST, ignore_errors=True)
    for folder in DISTRIBUTIONS:
        session.run("pyproject-build", "--no-isolation", "--outdir", str(DIST), folder)
    session.run("check-wheel-contents", str(DIST))
    for folder in DISTRIBUTIONS:
        path = Path(wheel(folder, extras=False))
        names = zipfile.ZipFile(path).namelist()
        for wanted in ("/py.typed", ".dist-info/licenses/LICENSE"):
            if not any(name.endswith(wanted) for name in names):
                session.error(f"{path.name} holds no file ending in {wanted}")


def subjects_on(version: str) -> tuple[str, ...]:
    """Return whose tests run on a Python: all on the first, those of what we publish on the last, core's between."""
    if version == FIRST:
        return (*DISTRIBUTIONS, "repository")
    return DISTRIBUTIONS if version == OTHERS[-1] else DISTRIBUTIONS[:1]


@nox.session(requires=["build"], reuse_venv=False)
@nox.parametrize(
    "python, version, subject",
    [
        nox.param(PYTHONS[version], version, subject, id=f"{Path(subject).name}-{version}")
        for version in (FIRST, *OTHERS)
        for subject in subjects_on(version)
    ],
)
def tests(session: nox.Session, version: str, subject: str) -> None:
    """Each distribution passes its tests beside only what it declares; the repository passes its own.

    On the first Python a plugin passes all of them, on the last those marked `drivers`: what goes to a server and
    back differs with the Python only there. The kit proves itself on the first Python alone.
    """
    if subject == "repository":
        install_everything(session)
        elsewhere = [f"--ignore=tests/{name}" for name in ("conformance", "docs", "host", "third_party")]
        session.run("pytest", "tests", *elsewhere, *session.posargs)
        return
    if subject == "core":
        install(session, wheel("core", extras=False))
        session.run("python", "-W", "error", "tests/bare_core.py")
    install_for_tests(session, subject)
    # Most wait for disks and processes more than they compute; no process is left with all the slow ones at the end.
    chosen = ["--numprocesses=6", "--dist=worksteal"]
    if subject in PLUGINS:
        chosen.append(f"--ignore={subject}/tests/conformance")
    if subject in PLUGINS and version != FIRST:
        chosen += ["-m", "drivers"]
    if subject == "conformance":
        chosen += ["-m", "not proof"]
        if version != FIRST:
            chosen += [f"--ignore={subject}/tests/test_{name}.py" for name in ("mutants", "odd_backends", "served")]
    session.run("pytest", *chosen, f"{subject}/tests", *session.posargs)


@nox.session(requires=["build"], reuse_venv=False, python=PYTHONS[FIRST], default=False)
def proof(session: nox.Session) -> None:
    """More seeds: for the faults of the kit's served backend, for the in-process one, and for one that is far away."""
    install_for_tests(session, "conformance")
    session.run("pytest", "--numprocesses=4", "-m", "proof", "conformance/tests", *session.posargs)


@nox.session(requires=["build"], reuse_venv=False)
@nox.parametrize("python, version", [nox.param(PYTHONS[v], v, id=v) for v in (FIRST, *OTHERS)])
def conformance(session: nox.Session, version: str) -> None:
    """Every backend keeps every promise at all levels that apply, a plugin on servers of its own.

    On the other Pythons only those in process.

    For Redis 7.0 a redis-server must be there: without one that part is named as not run, and where `CI` is set it is
    an error. What follows -- goes to pytest, for the plugins.
    """
    install(session, wheel("core", extras=False), wheel("conformance"), *theirs(group("test", "conformance")))
    session.run("deerflow-conformance", "run", "inprocess")
    if version != FIRST:
        return
    paths = sorted(ROOT.glob("tests/conformance/test_*.py"))
    for folder in PLUGINS:
        install_for_tests(session, folder)
        paths += kits_of(session, folder)
    runs = [([str(path), *LEVELS.get(path.name, ())], BUDGETS.get(path.name, 1.0)) for path in paths]
    run_kits(session, sorted(runs, key=lambda run: -run[1]))  # the longest first


@nox.session(requires=["build"], reuse_venv=False, python=PYTHONS[FIRST])
@nox.parametrize(
    "folder, driver",
    [
        nox.param(folder, driver, id=driver.replace("==", "-").removesuffix(".*"))
        for folder, drivers in DRIVERS.items()
        for driver in drivers
    ],
)
def drivers(session: nox.Session, folder: str, driver: str) -> None:
    """A plugin goes with older releases of its driver too: its tests marked `drivers`, and a part of the kit, to L2.

    With the release in constraints.txt it passes all tests and the whole kit, in the sessions `tests` and
    `conformance`.
    """
    install_for_tests(session, folder)
    session.install("--quiet", driver)
    kit = f"{folder}/tests/conformance/test_valkey_pubsub.py"
    marked = [f"{folder}/tests", f"--ignore={folder}/tests/conformance", "-m", "drivers"]
    run_kits(session, [(marked, 1), ([f"{kit}::stream_bridge", f"{kit}::memory", "--conformance-level=L2"], 0.1)])


@nox.session(requires=["build"], reuse_venv=False, python=PYTHONS[FIRST], default=False)
def soak(session: nox.Session) -> None:
    """Every backend runs all its levels for an hour, seed after seed: `-- 60` for a minute each.

    Two seeds must never disagree. Two backends run at once; the session fails with the seeds that failed.
    """
    install_everything(session)
    seconds = float(session.posargs[0]) if session.posargs else 3_600.0
    subjects = [Path("inprocess"), *sorted(ROOT.glob("tests/conformance/test_*.py"))]
    subjects += [path for folder in PLUGINS for path in kits_of(session, folder)]

    def soaked(subject: Path) -> list[str]:
        failed: list[str] = []
        end, seeds = time.monotonic() + seconds, itertools.count()
        while time.monotonic() < end:
            seed = next(seeds)
            command = ["deerflow-conformance", "run", "inprocess", f"--seed={seed}"]
            if subject.name != "inprocess":  # pytest finds what the file imports
                level = LEVELS.get(subject.name, ())
                command = ["pytest", "--quiet", str(subject), f"--conformance-seed={seed}", *level]
            result = quietly(session, *command)
            if result.returncode:
                failed.append(f"exit code {result.returncode}: {' '.join(command)}")
                session.log(result.stdout + result.stderr)
        session.log(f"{subject.name}: {next(seeds)} seeds, {len(failed)} of them failed")
        return failed

    with ThreadPoolExecutor(2) as executor:
        failed = list(itertools.chain.from_iterable(executor.map(soaked, subjects)))
    if failed:
        session.error("\n".join(failed))


@nox.session(python=PYTHONS[FIRST], requires=["build"], reuse_venv=False)
def docs(session: nox.Session) -> None:
    """Every hook and public name is documented; snippets are cut from files, and those files run."""
    install_everything(session)
    session.run("pytest", "--numprocesses=4", "tests/docs", *session.posargs)


@nox.session(python=PYTHONS[FIRST], requires=["build"], reuse_venv=False)
def third_party(session: nox.Session) -> None:
    """A backend in a repository of its own, installed from its wheel beside ours, is found by name and conformant."""
    wheels = [wheel("core"), wheel("conformance")]
    install(session, *wheels, *theirs(declared(EXAMPLE)), *group("build"), "pip")  # its wheel is what a test installs
    session.run("pytest", "tests/third_party", *session.posargs)


@nox.session(python=PYTHONS[FIRST], requires=["build"], reuse_venv=False, default=False)
def bench(session: nox.Session) -> None:
    """Every benchmark runs; what follows -- goes to the program, such as --quick or --backend."""
    install(session, *map(wheel, DISTRIBUTIONS), *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


def resolve(session: nox.Session, wanted: list[str], pins: Path, version: str) -> None:
    """Write into *pins* one exact version of all that is *wanted*, for Pythons from *version* on."""
    arguments = ["--universal", "--python-version", version, "--no-annotate", "--no-header", "--upgrade"]
    source = Path(session.create_tmp(), "requirements.in")
    source.write_text("\n".join(wanted), encoding="utf-8")
    session.run("uv", "pip", "compile", "--quiet", *arguments, "--output-file", str(pins), str(source))
    pins.write_text(f"# Written by: nox -s {session.name}\n{pins.read_text(encoding='utf-8')}", encoding="utf-8")


@nox.session(python=PYTHONS[HOST_PYTHON], requires=["build"], reuse_venv=False)
def host(session: nox.Session) -> None:
    """DeerFlow itself, installed beside core, finds its memory again where we copied it.

    It asks for some three hundred distributions, at releases that do not go with ours: hence pins of its own, and uv,
    which installs them in seconds where pip takes minutes.
    """
    session.install("--quiet", UV)
    pins = ("--constraint", str(HOST_PINS))
    session.run("uv", "pip", "install", "--quiet", *pins, wheel("core", extras=False), *HOST)
    session.run("pytest", "tests/host", *session.posargs)


@nox.session(python=PYTHONS[FIRST], default=False)
def pin(session: nox.Session) -> None:
    """Write the pins anew: the newest releases that go together, for every Python we support, and for the host's."""
    session.install("--quiet", UV)
    wanted = [line for name in ("lint", "types", "build", "bench") for line in group(name)]
    wanted += theirs([line for folder in (*DISTRIBUTIONS, EXAMPLE) for line in declared(folder)])
    resolve(session, wanted, ROOT / "constraints.txt", VERSIONS[0])
    resolve(session, [*HOST, *theirs(PROJECTS["core"]["project"]["dependencies"])], HOST_PINS, VERSIONS[1])
