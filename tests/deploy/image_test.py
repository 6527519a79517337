"""The package and the images, really made and really run: a whole build in an empty Debian, and a job in its results. Takes as long as a
build; needs root."""

import os
import subprocess
from pathlib import Path

import pytest

import kubernetes_test
from conftest import BIN_DIR, SOURCE_DIR
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
    manifests = kubernetes_test.render(checks, kubernetes_test.KUBERNETES / "overlays" / "cpu-demo")
    return {kubernetes_test.program_of(kubernetes_test.container_of(w)): kubernetes_test.config_of(manifests, w)
            for w in manifests.workloads}


def unpack(archive, root):
    root.mkdir(parents=True)
    subprocess.run(["tar", "-xf", archive, "-C", root], check=True)
    root.chmod(0o755)
    return root


def size_mib(folder):
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink()) / 2**20


def check_content(folder, programs):
    """Only the programs, only libraries that they need, nothing of CUDA but the stand-ins."""
    assert sorted(p.name for p in (folder / "bin").iterdir()) == sorted(programs)
    libraries = {p.name: p.stat().st_size for p in (folder / "lib").iterdir()}
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
    print(f"package: {archive.stat().st_size / 2**20:.0f} MiB packed, {size_mib(root / 'opt' / 'anneal'):.0f} MiB unpacked")
    assert "jobs/" in run_service(tmp_path, root, root, configs, SOURCE_DIR)


def test_the_images_run_as_a_cluster_runs_them(tmp_path, base, configs, version):
    buildah = ["buildah", "--root", tmp_path / "storage", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]

    def run(*arguments):
        done = subprocess.run([*buildah, *arguments], cwd=SOURCE_DIR, capture_output=True, text=True)
        assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    container = run("from", "scratch")
    run("add", container, base, "/")
    run("commit", "--quiet", container, "localhost/base")
    run("rm", container)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    roots = {}
    for target, programs in [("coordinator", ["anneal", "anneal-coordinator"]),
                             ("worker", ["anneal-prepare", "anneal-trainer", "anneal-worker"])]:
        image = f"anneal-{target}:{version}"
        # Layers are kept, so the second target finds the builder made.
        run("build", "--isolation", "chroot", "--layers", "--volume", f"{cache}:/root/.cache", "--build-arg", "BASE=localhost/base",
            "--file", "deploy/images/Containerfile", "--target", target, "--tag", image, ".")
        container = run("from", image)
        roots[target] = Path(run("mount", container))
        settings = run("inspect", "--type", "image", "--format", "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}", image)
        assert settings == f"65532:65532 [/opt/anneal/bin/anneal-{target}]"
        check_content(roots[target] / "opt" / "anneal", programs)
        print(f"{image}: {size_mib(roots[target]):.0f} MiB, of it Anneal {size_mib(roots[target] / 'opt' / 'anneal'):.0f} MiB")
    assert "jobs/" in run_service(tmp_path, roots["coordinator"], roots["worker"], configs, SOURCE_DIR)
    run("umount", "--all")
