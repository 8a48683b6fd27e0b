import pytest

from trimtab.guard._host_memory import free_bytes, snapshot_budget_bytes


def host(root, *, available_kb, files=()):
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available_kb} kB\n")
    for name, text in files:
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


LIMITED = [
    ("memory.max", "5000000\n"),
    ("memory.current", "3000000\n"),
    ("memory.stat", "anon 7\ninactive_file 500000\n"),
]
UNLIMITED = [("memory.max", "max\n"), ("memory.current", "3000\n"), ("memory.stat", "anon 7\n")]
VERSION_1 = [
    ("memory/memory.limit_in_bytes", "900000"),
    ("memory/memory.usage_in_bytes", "400000"),
    ("memory/memory.stat", "total_inactive_file 100000\n"),
]


@pytest.mark.parametrize(
    ("available_kb", "files", "expected"),
    [
        (4000, [], 4_096_000),
        (4000, LIMITED, 2_500_000),  # the limit less what is used, plus the cache of files
        (1000, LIMITED, 1_024_000),  # the host has less than the container may use
        (4000, UNLIMITED, 4_096_000),
        (4000, VERSION_1, 600_000),
        (4000, [("memory.max", "rubbish")], 4_096_000),
    ],
)
def test_free_memory_is_the_least_of_host_and_container(tmp_path, available_kb, files, expected):
    assert free_bytes(host(tmp_path, available_kb=available_kb, files=files)) == expected


def test_without_proc_the_system_is_asked(tmp_path):
    assert free_bytes(tmp_path) > 2**20


def test_processes_of_one_host_share_the_budget(monkeypatch):
    monkeypatch.setattr("trimtab.guard._host_memory.free_bytes", lambda: 8000)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert snapshot_budget_bytes() == 2000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert snapshot_budget_bytes() == 500
