"""The package and the images, really made and really run: a whole build in an empty Debian, and a job in its results. Takes as long as a
build; needs root."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import BIN_DIR, SOURCE_DIR
from manifests import KUBERNETES, config_of, container_of, program_of, render
from service_in_roots import run_service

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mmdebstrap and buildah make roots, as root")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A minimal Debian 12 as a tar archive. It trusts whom this machine trusts: some networks re-sign TLS."""
    archive = tmp_path_factory.mktemp("base") / "base.tar"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates",
                    "--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs", "bookworm", archive], check=True)
    return archive


@pytest.fixture(scope="module")
def configs(checks):
    """Program -> its settings in the overlay cpu-demo."""
    manifests = render(checks, KUBERNETES / "overlays" / "cpu-demo")
    return {program_of(container_of(w)): config_of(manifests, w) for w in manifests.workloads}


def unpack(archive, root):
    root.mkdir(parents=True)
    subprocess.run(["tar", "-xf", archive, "-C", root], check=True)
    root.chmod(0o755)
    return root


def size_mib(folder):
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink()) / 2**20


def stated(pattern):
    """The sizes in MiB that the page on sizing states, in the words of `pattern`."""
    text = (SOURCE_DIR / "docs" / "operations" / "sizing.md").read_text()
    return [float(number) for number in re.search(pattern.replace("N", r"([\d.]+)"), text).groups()]


def check_size(what, measured, said):
    """Programs grow; a page that is off by more than an eighth says something else than what there is."""
    print(f"{what}: {measured:.0f} MiB, stated {said:.0f}")
    assert said * 7 / 8 < measured < said * 9 / 8, what


def loads(path):
    """Names of the libraries that a program or library loads at its start; those that are not found are empty paths."""
    lines = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[0]: line.split()[2] if "not found" not in line else "" for line in lines if "=>" in line}


def check_content(folder, programs):
    """Only the programs, only libraries that they need, nothing of CUDA but the stand-ins."""
    assert sorted(p.name for p in (folder / "bin").iterdir()) == sorted(programs)
    libraries = {p.name: p.stat().st_size for p in (folder / "lib").iterdir()}
    needed = {}
    for program in (folder / "bin").iterdir():
        needed.update(loads(program))
    assert all(needed.values()), needed
    assert not libraries.keys() - needed.keys(), "nothing needs them"
    cuda = {name: size for name, size in libraries.items() if name.startswith(("libcu", "libnv", "libnccl", "libtorch_cuda", "libc10_cuda"))}
    assert all(size < 64 * 1024 for size in cuda.values()), cuda
    assert not [name for name in libraries if name.startswith(("libpython", "libtorch_python"))]
    assert "glibc 2.36" in (folder / "share" / "PACKAGE").read_text()


def test_the_package_runs_in_an_empty_debian(tmp_path, base, configs):
    archive = tmp_path / "anneal.tar.gz"
    subprocess.run([SOURCE_DIR / "tools" / "package", "--bin-dir", BIN_DIR, "--archive", archive], check=True)
    root = unpack(base, tmp_path / "root")
    unpack(archive, tmp_path / "unpacked")
    (root / "opt").mkdir(exist_ok=True)
    [folder] = (tmp_path / "unpacked").iterdir()
    folder.rename(root / "opt" / "anneal")
    check_content(root / "opt" / "anneal", ["anneal", "anneal-coordinator", "anneal-prepare", "anneal-trainer", "anneal-worker"])
    packed, unpacked = stated(r"\(`tools/package`\): N MiB packed, N MiB unpacked")
    check_size("package, packed", archive.stat().st_size / 2**20, packed)
    check_size("package, unpacked", size_mib(root / "opt" / "anneal"), unpacked)
    assert "jobs/" in run_service(tmp_path, root, root, configs, SOURCE_DIR)


def test_the_cuda_package_has_all_but_the_driver(tmp_path):
    """What GPUs need is in it, found beside it, and the same programs run where there is none."""
    folder = tmp_path / "anneal-cuda"
    subprocess.run([SOURCE_DIR / "tools" / "package", "--cuda", "--bin-dir", BIN_DIR, "--to", folder], check=True)
    [cuda] = folder.glob("lib/libanneal_trainer_cuda.so")
    missing = {name for name, path in loads(cuda).items() if not path}
    assert missing <= {"libcuda.so.1", "libnvidia-ml.so.1"}, missing
    outside = {name: path for name, path in loads(cuda).items() if path and not path.startswith((str(folder), "/lib/", "/usr/lib/", "/lib64/"))}
    assert not outside, outside
    assert {"libnccl.so.2", "libcudart.so.13", "libtorch_cuda.so"} <= {p.name for p in folder.glob("lib/*")}
    # Without the environment of a developer: it finds its own libraries, and says what is not there.
    for program in ("anneal-worker", "anneal-prepare", "anneal-trainer", "anneal-coordinator", "anneal"):
        subprocess.run([folder / "bin" / program, "--version"], env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True)
    (gibibytes,) = stated(r"with CUDA N GiB")
    check_size("package with CUDA, unpacked", size_mib(folder), gibibytes * 1024)


class Images:
    """Builds targets of the Containerfile on the base, in a storage of its own."""

    def __init__(self, folder, base):
        self.command = ["buildah", "--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs"]
        container = self.run("from", "scratch")
        self.run("add", container, base, "/")
        self.run("commit", "--quiet", container, "localhost/base")
        self.run("rm", container)

    def run(self, *arguments):
        done = subprocess.run([*self.command, *arguments], cwd=SOURCE_DIR, capture_output=True, text=True)
        assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def build(self, target, image, *arguments):
        """(container, its root) of the image made."""
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        # Layers are kept, so that a second target finds the builder made.
        self.run("build", "--isolation", "chroot", "--layers", "--volume", f"{cache}:/root/.cache", "--build-arg", "BASE=localhost/base",
                 *arguments, "--file", "deploy/images/Containerfile", "--target", target, "--tag", image, ".")
        container = self.run("from", image)
        settings = self.run("inspect", "--type", "image", "--format", "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}", image)
        assert settings == f"65532:65532 [/opt/anneal/bin/anneal-{target}]"
        return container, Path(self.run("mount", container))


def test_the_images_run_as_a_cluster_runs_them(tmp_path, base, configs, version):
    images = Images(tmp_path, base)
    roots = {}
    for target, programs in [("coordinator", ["anneal", "anneal-coordinator"]),
                             ("worker", ["anneal-prepare", "anneal-trainer", "anneal-worker"])]:
        image = f"anneal-{target}:{version}"
        _, roots[target] = images.build(target, image)
        check_content(roots[target] / "opt" / "anneal", programs)
        whole, own = stated(rf"{target} N MiB, of it Anneal N MiB")
        check_size(f"{image}, of it Anneal", size_mib(roots[target] / "opt" / "anneal"), own)
        check_size(image, size_mib(roots[target]), whole)
    assert "jobs/" in run_service(tmp_path, roots["coordinator"], roots["worker"], configs, SOURCE_DIR)
    images.run("umount", "--all")


def test_the_cuda_image_has_what_gpus_and_rdma_need(tmp_path, base, version):
    """All but the driver; and its programs start where there is no GPU."""
    images = Images(tmp_path, base)
    image = f"anneal-worker-cuda:{version}"
    container, root = images.build("worker", image, "--build-arg", "PACKAGE=--cuda")
    there = {p.name for folder in ("opt/anneal/lib", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/libibverbs")
             for p in (root / folder).iterdir()}
    # What NCCL opens by these names for InfiniBand.
    assert {"libanneal_trainer_cuda.so", "libtorch_cuda.so", "libcudart.so.13", "libnccl.so.2", "libibverbs.so.1", "libmlx5.so.1"} <= there
    for program in ("anneal-prepare", "anneal-trainer", "anneal-worker"):
        told = images.run("run", "--isolation", "chroot", container, "--", f"/opt/anneal/bin/{program}", "--version")
        assert told.startswith(program)
    (gibibytes,) = stated(r"worker with CUDA N GiB")
    check_size(image, size_mib(root), gibibytes * 1024)
    images.run("umount", "--all")
