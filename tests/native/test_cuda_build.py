"""Build of the CUDA engine: settings of CMake, and the check of the report of ptxas."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import ptxas
import pytest

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

SAMPLE = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN4zopo12_GLOBAL__N_14gramILb1EEEvPKd' for 'sm_90'
ptxas info    : Function properties for _ZN4zopo12_GLOBAL__N_14gramILb1EEEvPKd
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compile time = 4.043 ms
ptxas info    : Compiling entry function '_Z4scanPKfi' for 'sm_80'
ptxas info    : Function properties for _Z4scanPKfi
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Function properties for _Z6helperd
    {helper} bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""


def sample(stack: int = 0, stores: int = 0, loads: int = 0, helper: int = 0) -> list[ptxas.Function]:
    return ptxas.parse(SAMPLE.format(stack=stack, stores=stores, loads=loads, helper=helper))


# ---- report of ptxas ---------------------------------------------------------------------------------


def test_figures_are_read() -> None:
    gram, scan, helper = sample()
    assert (gram.architecture, gram.registers, gram.shared) == ("sm_90", 168, 128)
    assert (scan.name, scan.architecture, scan.registers, scan.shared) == ("_Z4scanPKfi", "sm_80", 255, 0)
    assert (helper.name, helper.registers) == ("_Z6helperd", None)
    assert not ptxas.faults([gram, scan, helper])


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ({"stack": 16}, "_Z4scanPKfi"),
        ({"stores": 8}, "_Z4scanPKfi"),
        ({"loads": 8}, "_Z4scanPKfi"),
        ({"helper": 40}, "_Z6helperd"),
    ],
)
def test_any_use_of_local_memory_is_a_fault(
    figures: dict[str, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = sample(**figures)
    assert [f.name for f in ptxas.faults(functions)] == [name]
    assert ptxas.table(functions).count("<- local memory") == 1
    monkeypatch.setitem(ptxas.EXCEPTIONS, name, "for the test")
    assert not ptxas.faults(functions)


def test_a_kernel_without_figures_is_an_error() -> None:
    with pytest.raises(ValueError, match="names 2 kernels, but figures were read of 1"):
        ptxas.parse(SAMPLE.replace("Used 255 registers", "Uses registers"))


def test_names_are_readable() -> None:
    assert ptxas.short("void zopo::(anonymous namespace)::gram<true, float>(float const*, int)") == (
        "gram<true, float>"
    )
    assert ptxas.short("zopo::(anonymous namespace)::scan(int, double (*)(double))") == "scan"
    if shutil.which("c++filt"):
        assert [f.name for f in ptxas.demangled(sample())] == ["gram<true>", "scan", "helper"]


def fake_nvcc(folder: Path, text: str, code: int = 0) -> str:
    (folder / "said").write_text(text)
    tool = folder / "nvcc"
    tool.write_text(f'#!/bin/sh\ncat "{folder}/said"\nexit {code}\n')
    tool.chmod(0o755)
    return str(tool)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (SAMPLE.format(stack=0, stores=0, loads=0, helper=0), 0, None),
        (SAMPLE.format(stack=0, stores=4, loads=0, helper=0), 0, "4 of spill stores"),
        ("one.cu(3): warning #177-D: unused variable", 0, "one.cu: does not compile without a warning"),
        ("one.cu(3): error: expected a ;", 2, "one.cu: does not compile without a warning"),
    ],
)
def test_the_command_fails_on_spills_and_warnings(
    text: str,
    code: int,
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDACXX", fake_nvcc(tmp_path, text, code))
    assert ptxas.main([str(tmp_path / "one.cu")]) == (1 if said else 0)
    out, err = capsys.readouterr()
    assert out.startswith("kernel")
    assert (said in err) if said else not err


def test_the_kept_output_of_a_build_is_read_instead_of_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SAMPLE.format(stack=0, stores=0, loads=0, helper=0)
    compiler = fake_nvcc(tmp_path, text)
    source, build = tmp_path / "csrc" / "one.cu", tmp_path / "build"
    for folder in (source.parent, build):
        folder.mkdir()
    source.touch()
    monkeypatch.delenv("CMAKE_CUDA_COMPILER_LAUNCHER", raising=False)
    run = [
        str(ROOT / "tests" / "native" / "kept_output.sh"),
        compiler,
        "-c",
        str(source),
        "-o",
        str(build / "one.cu.o"),
    ]
    command = ["--build", str(build), str(source)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == text
    monkeypatch.setenv("CUDACXX", fake_nvcc(tmp_path, "nothing", 2))  # must not be called
    assert ptxas.main(command) == 0
    assert "0 of them compiled for this" in capsys.readouterr().out
    assert ptxas.main(["--architectures", "90", *command]) == 1  # the build has more architectures
    assert "does not compile" in capsys.readouterr().err
    # A failed compilation is not kept, and removes the output kept before.
    assert subprocess.run(run, capture_output=True, check=False).returncode == 2
    assert ptxas.main(command) == 1
    assert "does not compile" in capsys.readouterr().err
    fake_nvcc(tmp_path, text + "warning: unused")
    assert subprocess.run(run, capture_output=True, check=False).returncode == 0
    assert ptxas.main(command) == 1
    # Output older than the sources is outdated.
    fake_nvcc(tmp_path, text)
    os.utime(source, (2e9, 2e9))
    assert ptxas.main(command) == 0
    assert "1 of them compiled for this" in capsys.readouterr().out


def test_the_output_is_kept_through_another_launcher(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho "launched $1"\nexec "$@"\n')
    launcher.chmod(0o755)
    script, compiler = str(ROOT / "tests" / "native" / "kept_output.sh"), fake_nvcc(tmp_path, "compiled\n")
    output = tmp_path / "one.cu.o"
    environment = {**os.environ, "CMAKE_CUDA_COMPILER_LAUNCHER": str(launcher)}
    subprocess.run([script, compiler, "-c", "one.cu", "-o", str(output)], env=environment, check=True)
    assert Path(f"{output}.said").read_text() == f"launched {compiler}\ncompiled\n"


def test_a_missing_nvcc_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ptxas, "find_nvcc", lambda: None)
    assert ptxas.main([]) == 0
    assert "nvcc is not here" in capsys.readouterr().out


def test_the_check_compiles_with_the_flags_of_the_build() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    for flag in ("-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", "-Xcompiler=-fvisibility=hidden"):
        assert flag in text
        assert flag in ptxas.FLAGS
    assert '"80-real;90-real;90-virtual"' in text


# ---- CMake -------------------------------------------------------------------------------------------


def configure(
    folder: Path, setting: str, nvcc: str = "no-such-nvcc", **values: str
) -> subprocess.CompletedProcess[str]:
    """Configure a build with this CUDA compiler, by default on a machine that has none."""
    if CMAKE is None:
        pytest.skip("no cmake here")
    pybind11 = pytest.importorskip("pybind11")
    command = [
        CMAKE, "-S", str(ROOT), "-B", str(folder / "build"), f"-DZOPO_CUDA={setting}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *(f"-D{name}={value}" for name, value in values.items()),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA", "CMAKE"))}
    environment["CUDACXX"] = str(folder / nvcc)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def assert_cpu_engine_only(done: subprocess.CompletedProcess[str], folder: Path, reason: str) -> None:
    """Check that a configured build has the CPU engine, and one line that says why."""
    assert done.returncode == 0, done.stderr
    assert f"-- CPU engine only: {reason}\n" in done.stdout
    database = "\n".join(path.read_text() for path in (folder / "build").rglob("build.make"))
    assert "no_device.cpp.o" in database
    assert ".cu.o" not in database


NO_COMPILER = "no working CUDA compiler (nvcc) was found: put nvcc on PATH or set CUDACXX"


@pytest.mark.parametrize(
    ("setting", "reason"), [("AUTO", NO_COMPILER), ("OFF", "it was built with ZOPO_CUDA=OFF")]
)
def test_without_nvcc_the_cpu_engine_is_built(setting: str, reason: str, tmp_path: Path) -> None:
    assert_cpu_engine_only(configure(tmp_path, setting), tmp_path, reason)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ON", f"ZOPO_CUDA=ON, but {NO_COMPILER}"),
        ("MAYBE", "ZOPO_CUDA must be AUTO, ON, OFF or EMULATE, not 'MAYBE'"),
    ],
)
def test_an_impossible_setting_is_an_error(setting: str, message: str, tmp_path: Path) -> None:
    done = configure(tmp_path, setting)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())  # CMake breaks lines


def test_a_failing_nvcc_leaves_the_cpu_engine_and_is_tried_again(tmp_path: Path) -> None:
    fake_nvcc(tmp_path, "unsupported GNU version!", 1)
    assert_cpu_engine_only(configure(tmp_path, "AUTO", "nvcc"), tmp_path, NO_COMPILER)
    assert "CMAKE_CUDA_COMPILER:" not in (tmp_path / "build" / "CMakeCache.txt").read_text()


def test_an_nvcc_that_cannot_compile_the_engine_is_named(tmp_path: Path) -> None:
    """An architecture that nvcc does not know stands for every build it cannot make."""
    nvcc = ptxas.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc here")
    done = configure(tmp_path, "AUTO", nvcc, ZOPO_CUDA_ARCHITECTURES="1-real;2-real")
    if "knows no C++20" in done.stdout:
        pytest.skip("this CMake is too old for the CUDA engine")
    version = re.search(r"CUDA compiler identification is NVIDIA (\S+)", done.stdout)
    assert version is not None
    reason = f"nvcc {version[1]} with this host compiler does not compile C++20 for the architectures "
    reason += "1-real, 2-real"
    assert_cpu_engine_only(done, tmp_path, reason)
    refused = configure(tmp_path, "ON", nvcc, ZOPO_CUDA_ARCHITECTURES="1-real;2-real")
    assert refused.returncode != 0
    assert f"ZOPO_CUDA=ON, but {reason}" in " ".join(refused.stderr.split())


def test_a_cmake_too_old_for_cuda_is_named(tmp_path: Path) -> None:
    """CMake's list of what the CUDA compiler can do, replaced, stands for an old CMake."""
    nvcc = ptxas.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc here")
    hook = tmp_path / "forget.cmake"
    hook.write_text(
        "macro(enable_language)\n_enable_language(${ARGN})\n"
        "if(DEFINED CMAKE_CUDA_COMPILE_FEATURES)\nset(CMAKE_CUDA_COMPILE_FEATURES cuda_std_17)\nendif()\n"
        "endmacro()\n"
    )
    done = configure(tmp_path, "AUTO", nvcc, CMAKE_PROJECT_INCLUDE=str(hook))
    reason = re.search(r"-- CPU engine only: (CMake \S+ knows no C\+\+20 for nvcc \S+: .*)", done.stdout)
    assert reason is not None, done.stdout
    assert reason[1].endswith(": the CUDA engine needs CMake 3.25.2 and nvcc 12.0 or later")
    assert_cpu_engine_only(done, tmp_path, reason[1])


def test_the_build_asks_for_the_cmake_that_cuda_needs() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]
    assert settings["cmake"]["version"] == ">=3.25.2"
