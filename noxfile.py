"""Checks of the workspace: `uv run --all-packages nox` runs the default ones, `nox -s NAME` one; `nox -l` lists."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "types", "tests", "compiled", "alone"]
nox.options.error_on_missing_interpreters = True  # a missing Python is no silent pass
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
QUICK = ("-m", "not stats and not model and not cubins and not hf and not exporters")
ALL_CORES = ("-n", "auto", "--dist", "loadfile")  # a file's tests share what they measure
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a process a core is enough
SIMD = "packages/tq-kernels-simd"
WHEELS: dict[str, Path] = {}  # built once a run, whatever sessions ask for them


def sync(session: nox.Session, *groups: str, packages: bool = True) -> None:
    """Fill the session's environment from the lock file: the groups, and the packages as editable installs."""
    options = ["--all-packages"] if packages else ["--no-install-workspace"]
    chosen = [part for group in groups for part in ("--group", group)]
    session.run_install(
        *("uv", "sync", "--locked", "--no-default-groups", *options, *chosen),
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
        external=True,
    )


def wheels(session: nox.Session) -> dict[str, Path]:
    """Wheels of all packages by name, each built from its own source distribution."""
    if not WHEELS:
        folder = Path(session.cache_dir) / "wheels"
        shutil.rmtree(folder, ignore_errors=True)
        session.run_install(
            *("uv", "build", "--all-packages", "--out-dir", str(folder)),
            env={"SOURCE_DATE_EPOCH": "1577836800"},
            external=True,
        )
        for name in PACKAGES:
            (WHEELS[name],) = folder.glob(f"{name.replace('-', '_')}-*.whl")
            (_sdist,) = folder.glob(f"{name.replace('-', '_')}-*.tar.gz")
    return WHEELS


def with_siblings(name: str) -> list[str]:
    """The package and the siblings it depends on, from its own metadata."""
    project = nox.project.load_toml(ROOT / "packages" / name / "pyproject.toml")["project"]
    names = {name}
    for requirement in project["dependencies"]:
        sibling = requirement.split(">")[0].split("[")[0].strip()
        if sibling in PACKAGES:
            names |= set(with_siblings(sibling))
    return sorted(names)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and a lock file that fits the metadata."""
    sync(session, "lint", packages=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("uv", "lock", "--check", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over every package; tq-core's compiled modules depend on it."""
    sync(session, "types")
    session.run("mypy", *(f"packages/{name}/src" for name in PACKAGES))


@nox.session
def tests(session: nox.Session) -> None:
    """The whole workspace, editable and interpreted, without the long statistical and model tests."""
    sync(session, "test")
    session.run("pytest", *ALL_CORES, *QUICK, *session.posargs, env=ONE_THREAD)


@nox.session
def compiled(session: nox.Session) -> None:
    """The whole workspace against installed wheels; fails unless tq-core's primitives are compiled."""
    built = wheels(session)
    sync(session, "test", packages=False)
    session.install(*map(str, built.values()))
    session.run("python", "-c", "import tq_core; assert tq_core.COMPILED, tq_core._bits.__file__")
    session.run("python", "-m", "tq_core", "selftest")
    session.run("pytest", *ALL_CORES, *QUICK, *session.posargs, env=ONE_THREAD | {"TQ_EXPECT_COMPILED": "1"})


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def alone(session: nox.Session, package: str) -> None:
    """One package from its wheel with its declared dependencies, its tests copied out of the tree."""
    built = wheels(session)
    # siblings by path: with a name and a folder of wheels, a stranger's upload of that name could win
    session.install(*(str(built[name]) for name in with_siblings(package)))
    session.install("pytest", "pytest-xdist", "hypothesis")
    copy = Path(session.create_tmp()) / "tests"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "packages" / package / "tests", copy)
    shutil.copy(ROOT / "packages" / package / "README.md", copy.parent)  # its examples are tests
    shutil.copy(ROOT / "pyproject.toml", copy.parent)  # pytest's settings, shared
    session.chdir(copy.parent)
    command = ("python", "-I", "-m", "pytest", *ALL_CORES, *QUICK, "-p", "no:cacheprovider", "tests")
    session.run(*command, *session.posargs, env=ONE_THREAD)


@nox.session
def stats(session: nox.Session) -> None:
    """The acceptance table: long statistical tests of distortion, bias and rotation quality."""
    sync(session, "test")
    session.run("pytest", *ALL_CORES, "-m", "stats", *session.posargs, env=ONE_THREAD)


@nox.session
def model(session: nox.Session) -> None:
    """Acceptance on the trained decoder: what each policy costs in KL."""
    sync(session, "test")
    session.run("pytest", *ALL_CORES, "-m", "model", *session.posargs, env=ONE_THREAD)


# pip, not uv: it honours an environment's own find-links, where a CPU build of torch may lie; uv would bring the
# CUDA libraries, gigabytes that no test here uses
@nox.session(venv_backend="venv")
@nox.parametrize("transformers", ["5.23.0", "4.57.6"], ids=["5", "4"])
def hf(session: nox.Session, transformers: str) -> None:
    """TurboQuantCache and trace export in small models of transformers, newest and oldest supported: `nox -s hf`."""
    session.install("torch==2.13.0", f"transformers=={transformers}", "pytest", "hypothesis")
    session.install("-e", "packages/tq-core", "-e", "packages/tq-cache", "-e", "packages/tq-trace")
    session.run("pytest", "-m", "hf", "packages/tq-cache/tests/hf", "packages/tq-trace/tests/hf", *session.posargs)


@nox.session
@nox.parametrize("cuda", ["cuda13", "cuda12"], ids=["13", "12"])
def gpu(session: nox.Session, cuda: str) -> None:
    """The kernels on the CUDA device of this machine: `nox -s gpu-13`; without one it fails instead of skipping."""
    session.install("-e", "packages/tq-core", "-e", f"packages/tq-kernels-gpu[{cuda}]", "pytest", "hypothesis")
    session.run("python", "-c", "import tq_kernels_gpu; print(tq_kernels_gpu.load().device.label)")
    session.run("pytest", "-m", "gpu", "packages/tq-kernels-gpu", *session.posargs)


EXPORTERS = {  # versions that worked together; the two sets cannot share an environment
    "optimum": ("with_optimum.py", ["transformers==4.57.6", "optimum==2.1.0", "optimum-onnx==0.1.0"]),
    "genai": ("with_genai.py", ["transformers==5.23.0", "onnxruntime-genai==0.18.0", "onnx-ir==1.1.0"]),
    "dynamo": ("with_dynamo.py", ["transformers==5.23.0", "onnxscript==0.7.2", "onnx-ir==1.1.0"]),
}


@nox.session(venv_backend="venv")  # pip, for the reason above
@nox.parametrize("exporter", [*EXPORTERS], ids=[*EXPORTERS])
def exporters(session: nox.Session, exporter: str) -> None:
    """Bundles made on the spot by real exporters from random small models, then inspected, run and evaluated."""
    script, packages = EXPORTERS[exporter]
    session.install("torch==2.13.0", "onnx==1.23.2", "onnxruntime==1.32.0", "onnxconverter-common", *packages)
    session.install("pytest", *(part for name in with_siblings("tq-onnx") for part in ("-e", f"packages/{name}")))
    made = Path(session.create_tmp()) / "bundles"
    shutil.rmtree(made, ignore_errors=True)
    session.run("python", f"fixtures/recipes/bundles/{script}", os.fspath(made))
    environment = ONE_THREAD | {"TQ_BUNDLES": os.fspath(made)}
    tests = "packages/tq-onnx/tests/test_real_bundles.py"
    session.run("pytest", "-m", "exporters", tests, *session.posargs, env=environment)


@nox.session
def coverage(session: nox.Session) -> None:
    """Line and branch coverage of the interpreted workspace."""
    sync(session, "test")
    session.run("pytest", *QUICK, "--cov", "--cov-report=term", *session.posargs)


@nox.session
def fixtures(session: nox.Session) -> None:
    """The only writer of golden files and tables; afterwards `git diff` shows what changed."""
    sync(session, "test")
    session.run("python", "-m", "tq_core.make_tables", *session.posargs)
    session.run("python", "-m", "tq_core.make_golden", "fixtures/golden", *session.posargs)
    session.run("python", "fixtures/freeze.py")


# What each option of a policy is worth: beside plain codes of 2, 3 and 4 bits, one change at a time.
OPTIONS = [
    policy
    for bits in (2, 3, 4)
    for policy in (
        f"k=mse{bits},v=mse{bits},kscale=plain,vscale=plain",
        f"k=mse{bits},v=mse{bits},kscale=mse,vscale=mse",
        f"k=mse{bits},v=mse{bits}",
        f"k=mse{bits},v=mse{bits},ksearch=9,vsearch=9",
        f"k=mse{bits},v=mse{bits},kmean=32",
        f"k=mse{bits},v=mse{bits},sinks=4,window=32",
        f"k=prod{bits},v=mse{bits}",
        f"k=trellis{bits},v=trellis{bits},kmean=32",
    )
] + ["k=mse4,v=mse2", "k=mse2,v=mse4", "k=mse8,v=mse4", "k=mse4,v=mse8"]


@nox.session
def results(session: nox.Session) -> None:
    """The quality tables of the README and of docs/results, measured anew on the trained decoder."""
    sync(session)
    evaluate(session, "stdlib-llama", "--seed", "2")
    widths = [
        policy
        for bits in (2, 3, 4)
        for policy in (
            f"k=mse{bits},v=mse{bits}",
            f"k=mse{bits},v=mse{bits},ksearch=9,vsearch=9",
            *(f"k=trellis{bits}{states},v=trellis{bits}{states}" for states in ("s8", "s256", "", "s4096")),
        )
    ]
    fractions = [f"k=mse{bits},v=mse{bits}" for bits in ("2.25", "2.5", "3.25", "3.5")]
    integers = ["k=int4,v=int4", "k=int8,v=int8"]
    evaluate(session, "trellis", *asked(*widths, *fractions, *integers))
    for model in ("stdlib-llama", "stdlib-qwen2"):
        evaluate(session, f"options-{model}", *asked(*OPTIONS, "balanced", "k=int4,v=int4"), model=model)
        plain = [f"k=mse{bits},v=mse{bits}{mean}" for mean in ("", ",kmean=32") for bits in (2, 3, 4)]
        recall = asked("k=mse8,v=mse8", "safe", *plain, "k=int4,v=int4")
        evaluate(
            session, f"recall-{model}", *recall, "--task", "needle", "--windows", "64", "--batch", "32", model=model
        )
        greedy = ("--mode", "fused", "--memory", "--free-tokens", "256")
        evaluate(session, f"fused-{model}", *asked("safe", *plain), *greedy, model=model)
    session.run("python", "docs/results/update_readme.py")


def asked(*policies: str) -> list[str]:
    """Those policies as options of a command."""
    return [part for policy in policies for part in ("--policy", policy)]


def evaluate(session: nox.Session, name: str, *options: str, model: str = "stdlib-llama") -> None:
    """One table of docs/results, seeds 0 and 1 and those of the options."""
    session.run(
        *("tq-onnx", "evaluate", f"fixtures/models/{model}", "--seed", "0", "--seed", "1", *options),
        *("--json", f"docs/results/{name}.json", "--format", "markdown", "--output", f"docs/results/{name}.md"),
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Every bench script of every package; each prints a table and writes JSON beside itself."""
    sync(session)
    for script in sorted(ROOT.glob("packages/*/bench/*.py")):
        codes = [0, 2] if script.name == "gpu.py" else [0]  # 2: there is no device
        session.run("python", os.fspath(script.relative_to(ROOT)), success_codes=codes)


@nox.session
def train(session: nox.Session) -> None:
    """Retrain a model fixture (about 25 minutes): `nox -s train -- WORK [stdlib-qwen2]`, an empty folder outside."""
    work, model = (*session.posargs, "stdlib-llama")[:2]
    sync(session, "train", packages=False)
    for step in ("prepare", "train", "ngram", "export"):
        chosen = ("--model", model) if step in ("train", "export") else ()
        session.run("python", f"fixtures/recipes/stdlib_llama/{step}.py", "--work", work, *chosen)
    session.run("python", "fixtures/recipes/stdlib_llama/verify.py", f"fixtures/models/{model}")


def sanitized(session: nox.Session, folder: str, *defines: str) -> None:
    """Replace the kernels of the session's environment by a build under the sanitizers, in its own build folder."""
    settings = [f"-Ccmake.define.{name}=ON" for name in ("TQ_SANITIZE", *defines)]
    session.install(
        *("--no-deps", "--no-cache", "--reinstall-package", "tq-kernels-simd", f"./{SIMD}"),
        *(*settings, "-Ccmake.build-type=Debug", f"-Cbuild-dir=build/{folder}"),
    )


@nox.session
def sanitize(session: nox.Session) -> None:
    """The C code under AddressSanitizer and UBSan: seeded faults are reported, then all passes at every level."""
    sync(session, "test")
    sanitized(session, "seeded", "TQ_SEED_FAULT")
    session.run("python", f"{SIMD}/tests/isa/sanitize.py", "seeded")
    sanitized(session, "asan")
    session.run("python", f"{SIMD}/tests/isa/sanitize.py", "suite", *session.posargs)


@nox.session
def isa(session: nox.Session) -> None:
    """The kernels on processors that are not here, by emulators: `nox -s isa -- aarch64 nehalem simde native`."""
    sync(session, "test")
    session.run("python", f"{SIMD}/tests/isa/emulate.py", *session.posargs)
