"""What ``edge-node doctor`` finds on computers of all kinds, laid out as files."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edge_node import cli_doctor
from edge_node.config import Config, load_config
from edge_node.doctor import clock, disk, edgetpu, files, heat, ports, software
from edge_node.doctor.findings import Finding, fail, ok, shown, total, warn
from edge_node.doctor.host import Discipline, Host, kernel_discipline
from edge_node.planning import Plan, plan_of
from edge_node.state_dir import StateDir
from tests.brokers import certificates
from tests.edge_node.computers import NOW_S, Computer, configured, levels
from tests.edge_node.daemons import config as config_with_model
from tests.edge_node.daemons import edge_node

TPU = {"bMaxPower": "896mA", "speed": "5000", "bmAttributes": "80", "product": "Edge TPU"}


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    """Of a user who owns nothing on it, and is in no group."""
    return Computer(tmp_path / "root", uid=4321, groups=())


def wants(folder: Path, backend: str) -> Config:
    """A configuration whose one device scores on ``backend``."""
    loaded = load_config(config_with_model(folder, 1))
    return replace(loaded, devices=tuple(replace(d, backend=backend) for d in loaded.devices))


# The Edge TPU


@pytest.mark.parametrize(("backend", "expected"), [("cpu", []), ("auto", ["warn"]), ("edgetpu", ["fail"])])
def test_no_edge_tpu(computer: Computer, tmp_path: Path, backend: str, expected: list[str]) -> None:
    computer.usb("1-1", "1d6b:0002")
    assert levels(edgetpu.edge_tpu(computer.host, wants(tmp_path, backend))) == expected


def test_an_edge_tpu_on_a_good_port(computer: Computer, tmp_path: Path) -> None:
    computer.usb("2-1", "18d1:9302", 0o666, **TPU)
    (found,) = edgetpu.edge_tpu(computer.host, wants(tmp_path, "auto"))
    assert found.level == "ok"
    assert "18d1:9302 on USB 2-1 at 5000 Mbit/s, asks for 896 mA" in found.text


def test_an_edge_tpu_as_it_is_often_found(computer: Computer, tmp_path: Path) -> None:
    """Behind a hub without a supply, on USB 2, on a Raspberry Pi 5 with a small supply, closed to this user."""
    hub = {"bDeviceClass": "09", "bmAttributes": "80"}
    computer.usb("1-1", "05e3:0608", 0o666, 6, **hub)
    computer.usb("1-1.3", "1a6e:089a", 0o660, 7, **{**TPU, "bMaxPower": "500mA", "speed": "480"})
    computer.file("/proc/device-tree/chosen/power/usb_max_current_enable", "\0\0\0\0")
    found = list(edgetpu.edge_tpu(computer.host, wants(tmp_path, "edgetpu")))
    assert levels(found) == ["fail", "warn", "warn", "warn"]
    closed, slow, hubs, small = found
    assert "/dev/bus/usb/001/007 may not be opened" in closed.text
    assert "plugdev" in closed.remedy
    assert "480 of 5000" in slow.text
    assert "hub at 1-1 has no supply" in hubs.text
    assert "600 mA" in small.text
    # A hub with a supply, and the setting that a large supply allows.
    computer.usb("1-1", "05e3:0608", 0o666, 6, **{**hub, "bmAttributes": "e0"})
    computer.file("/proc/device-tree/chosen/power/usb_max_current_enable", "\0\0\0\1")
    assert levels(edgetpu.edge_tpu(computer.host, wants(tmp_path, "edgetpu"))) == ["fail", "warn"]


def test_an_edge_tpu_on_pcie_and_one_that_nobody_uses(computer: Computer, tmp_path: Path) -> None:
    computer.file("/dev/apex_0", mode=0o666)
    assert levels(edgetpu.edge_tpu(computer.host, wants(tmp_path, "edgetpu"))) == ["ok"]
    assert levels(edgetpu.edge_tpu(computer.host, wants(tmp_path, "cpu"))) == ["ok", "warn"]
    computer.file("/dev/apex_0", mode=0o600)
    assert levels(edgetpu.edge_tpu(computer.host, wants(tmp_path, "auto"))) == ["fail"]


# Serial ports

SERIAL = '[[source]]\ntype = "serial"\ndevice = "d"\n'
CP210X = {"serial": "A5XK3RJT", "product": "CP2102"}


def test_ports_are_found_by_all_that_they_may_be_called(computer: Computer, tmp_path: Path) -> None:
    computer.usb("1-1.4", "10c4:ea60", **CP210X)
    computer.tty("ttyUSB0", "1-1.4", 0o666)
    computer.link("/dev/serial/by-path/platform-xhci-usb-0:1.4:1.0-port0", "/dev/ttyUSB0")
    names = (
        'port = "/dev/ttyUSB0"',
        'usb_serial = "a5xk3rjt"',
        'vid_pid = "10C4:EA60"',
        'by_path = "1-1.4"',
        'by_path = "1-1.4:1.0"',
        'by_path = "platform-xhci-usb-0:1.4:1.0-port0"',
        'vid_pid = "10c4:ea60"\nusb_serial = "A5XK3RJT"',
    )
    for name in names:
        (found,) = ports.serial(computer.host, configured(tmp_path, SERIAL + name))
        assert found.level == "ok", found
        assert "/dev/ttyUSB0" in found.text
    for name in ('port = "/dev/ttyUSB1"', 'usb_serial = "B"', 'vid_pid = "10c4:ea61"', 'by_path = "1-1"'):
        missing, others = ports.serial(computer.host, configured(tmp_path, SERIAL + name))
        assert missing.level == "fail"
        assert name.split(" = ")[1].strip('"') in missing.text
        assert "/dev/ttyUSB0 (10c4:ea60, usb_serial A5XK3RJT, 1-1.4)" in missing.remedy
        assert others.text.startswith("also here: /dev/ttyUSB0")


def test_terminals_and_uarts_that_are_not_fitted_are_no_ports(computer: Computer) -> None:
    computer.tty("ttyAMA0")
    computer.tty("ttyS0")
    computer.file("/sys/class/tty/ttyS0/type", "0\n")
    computer.file("/sys/class/tty/tty1/active", "")
    computer.file("/dev/tty1")
    assert [port.path for port in ports.serial_ports(computer.host)] == ["/dev/ttyAMA0"]


def test_a_port_that_may_not_be_opened(computer: Computer, tmp_path: Path) -> None:
    computer.usb("1-1.4", "10c4:ea60", **CP210X)
    computer.tty("ttyUSB0", "1-1.4", 0o660)
    loaded = configured(tmp_path, SERIAL + 'usb_serial = "A5XK3RJT"')
    (found,) = ports.serial(computer.host, loaded)
    assert found.level == "fail"
    assert "/dev/ttyUSB0 may not be opened by this user" in found.text
    group = os.stat(computer.root / "dev/ttyUSB0").st_gid
    assert levels(ports.serial(replace(computer.host, groups=frozenset({group})), loaded)) == ["ok"]


def test_two_ports_that_answer_to_one_name(computer: Computer, tmp_path: Path) -> None:
    for number, place in enumerate(("1-1.3", "1-1.4")):
        computer.usb(place, "1a86:7523", node_number=number)
        computer.tty(f"ttyUSB{number}", place, 0o666)
    (found,) = ports.serial(computer.host, configured(tmp_path, SERIAL + 'vid_pid = "1a86:7523"'))
    assert found.level == "warn"
    assert "fits 2 ports: /dev/ttyUSB0, /dev/ttyUSB1" in found.text


def test_modbus_on_a_line_and_over_tcp(computer: Computer, tmp_path: Path) -> None:
    register = '\n[[source.register]]\ndevice = "d"\nchannel = "x"\nslave = 1\naddress = 0\n'
    line = '[[source]]\ntype = "modbus"\nport = "/dev/ttyUSB0"' + register
    over_tcp = '[[source]]\ntype = "modbus"\nname = "tcp"\nhost = "10.0.0.7"' + register.replace('"x"', '"y"')
    loaded = configured(tmp_path, line, over_tcp.replace('"y"', '"x"'))
    (found,) = ports.serial(computer.host, loaded)
    assert found.level == "fail"
    assert "source modbus: no port with port /dev/ttyUSB0" in found.text


# The user, the state, keys


def test_root_is_told_that_it_sees_nothing(computer: Computer) -> None:
    assert levels(files.user(replace(computer.host, uid=0), Path())) == ["warn"]
    assert levels(files.user(computer.host, Path())) == ["ok"]


def test_the_state(computer: Computer, tmp_path: Path) -> None:
    loaded = configured(tmp_path, gateway='state_dir = "/var/lib/linewatch"')
    place = computer.root / "var/lib/linewatch"
    place.parent.mkdir(parents=True)
    (found,) = files.state(computer.host, loaded)
    assert found.level == "fail"
    assert "/var/lib may not be written to" in found.text
    own = replace(computer.host, uid=os.geteuid())
    assert levels(files.state(own, loaded)) == ["ok"]  # it can be made
    place.mkdir(mode=0o700)
    assert levels(files.state(own, loaded)) == ["ok"]
    assert levels(files.state(computer.host, loaded)) == ["fail"]
    place.chmod(0o755)
    assert levels(files.state(own, loaded)) == ["warn"]
    place.rmdir()
    place.write_text("")
    (found,) = files.state(own, loaded)
    assert "is not a directory" in found.text


@pytest.mark.parametrize(
    ("whose", "remedy"), [(os.geteuid(), "chmod u+rwx"), (os.geteuid() + 1, "sudo chown -R")]
)
def test_a_state_directory_that_nobody_may_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: int, remedy: str
) -> None:
    loaded = configured(tmp_path, gateway='state_dir = "state"')
    (tmp_path / "state").mkdir(mode=0o555)
    host = Host(uid=whose)
    monkeypatch.setattr(Host, "may", lambda *_: False)
    (found,) = files.state(host, loaded)
    assert found.remedy.startswith(f"{remedy} ")


def test_what_was_set_aside_is_told(tmp_path: Path) -> None:
    loaded = configured(tmp_path, gateway='state_dir = "state"')
    (tmp_path / "state").mkdir()
    assert list(files.set_aside(Host(), loaded)) == []
    (tmp_path / "state" / "outbox.sqlite.set-aside").write_bytes(bytes(2_000_000))
    (found,) = files.set_aside(Host(), loaded)
    assert (found.level, "(2.0 MB)" in found.text) == ("warn", True)


def test_a_gateway_that_runs_is_seen(tmp_path: Path) -> None:
    loaded = configured(tmp_path, gateway='state_dir = "state"')
    assert not files.gateway_runs(Host(), loaded)
    state = StateDir(tmp_path / "state")
    assert files.gateway_runs(Host(), loaded)
    (found,) = files.state(Host(), loaded)
    assert found.text.endswith("; a gateway runs with it")
    state.close()
    assert not files.gateway_runs(Host(), loaded)


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o600, ["ok"]), (0o640, ["warn", "warn"]), (0o604, ["fail", "fail"])]
)
def test_keys_and_passwords(tmp_path: Path, mode: int, expected: list[str]) -> None:
    for name in ("password", "key", "cert"):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o644 if name == "cert" else mode)
    tables = (
        '[uplink]\nhost = "h"\nusername = "u"\npassword_file = "password"',
        '[[source]]\ntype = "mqtt"\nhost = "h"\ntls = { cert_file = "cert", key_file = "key" }\n'
        '[[source.subscribe]]\ntopic = "{device}"\n',
    )
    loaded = configured(tmp_path, *tables)
    found = list(files.secrets(Host(), loaded))
    assert levels(found) == expected
    if mode == 0o600:
        assert found[0].text == "2 files, each its owner's alone"
        assert levels(files.secrets(Host(uid=4321, groups=frozenset()), loaded)) == ["fail", "fail"]
    else:
        assert [f.text.split(": ")[0] for f in found] == [
            "[uplink] password_file",
            "[source mqtt.tls] key_file",
        ]
    (tmp_path / "key").unlink()
    (gone,) = [f for f in files.secrets(Host(), loaded) if "key_file" in f.text]
    assert (gone.level, "is not there" in gone.text) == ("fail", True)


def test_certificates(tmp_path: Path) -> None:
    made = certificates(tmp_path)
    pair = f'cert_file = "{made.server}", key_file = "{made.server_key}"'
    table = f'[uplink]\nhost = "h"\ntls = {{ ca_file = "{made.ca}", {pair} }}'
    loaded = configured(tmp_path, table)
    now_s = time.time()
    assert levels(files.certificates(Host(), configured(tmp_path))) == []
    for ago_s, expected in ((60 * 86_400, ["ok"]), (0, ["warn", "warn"]), (-2 * 86_400, ["fail", "fail"])):
        at = replace(Host(), now_s=lambda ago_s=ago_s: now_s - ago_s)
        assert levels(files.certificates(at, loaded)) == expected


# The disk


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    loaded = load_config(config_with_model(tmp_path_factory.mktemp("plan"), 1))
    return plan_of(loaded, software.assembled(loaded)[0], 6 * 3600.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mount", "level", "words"),
    [
        ("/dev/nvme0n1p2 / ext4 rw,relatime", "ok", "ext4 on /, relatime"),
        ("/dev/mmcblk0p2 / ext4 rw,noatime", "ok", "the SD card SC32G, noatime; up to"),
        ("/dev/mmcblk1p2 / ext4 rw,noatime", "ok", "ext4 on /, noatime"),  # eMMC
        ("/dev/mmcblk0p2 / ext4 rw", "warn", "writes the time of every read"),
        ("tmpfs /var tmpfs rw", "fail", "is memory"),
        ("server:/x /var nfs4 rw,relatime", "warn", "another computer's"),
        ("/dev/sda1 /var vfat rw,relatime", "warn", "no journal"),
        ("overlay / overlay rw,relatime", "warn", "may be gone"),
        ("/dev/sda1 / ext4 ro,relatime", "fail", "read-only"),
    ],
)
def test_file_systems(
    computer: Computer, tmp_path: Path, plan: Plan, mount: str, level: str, words: str
) -> None:
    computer.file("/var/lib/linewatch/lock")
    for name, kind in (("mmcblk0", "SD"), ("mmcblk1", "MMC")):
        computer.file(f"/dev/{name}p2")
        computer.file(f"/sys/block/{name}/device/type", f"{kind}\n")
        computer.file(f"/sys/block/{name}/device/name", "SC32G\n")
    computer.mounts("/dev/root / ext4 rw,relatime", mount, "proc /proc proc rw")
    loaded = configured(tmp_path, gateway='state_dir = "/var/lib/linewatch"')
    room, found = disk.disk(computer.host, loaded, plan)
    assert room.level == "ok"
    assert "6 h without the broker take 17 MB, the black box up to 2.0 GB" in room.text
    assert (found.level, words in found.text) == (level, True), found


def test_a_disk_that_is_too_small_and_a_card_that_is_worn_out(
    computer: Computer, tmp_path: Path, plan: Plan
) -> None:
    computer.file("/dev/mmcblk0p2")
    computer.file("/sys/block/mmcblk0/device/type", "SD")
    computer.mounts("/dev/mmcblk0p2 / ext4 rw,noatime")
    loaded = configured(tmp_path)
    struct = type(plan)
    huge = struct(
        **{f: getattr(plan, f) for f in struct.__struct_fields__}
        | {"state_bytes": 10**18, "state_day_bytes": 10**10}
    )
    room, wear = disk.disk(computer.host, loaded, huge)
    assert (room.level, wear.level) == ("fail", "warn")
    assert "make room" in room.remedy
    assert "wears a card out" in wear.text


# The clock


@pytest.mark.parametrize(
    ("now", "discipline", "level", "words"),
    [
        (NOW_S, Discipline(True, 0.02), "ok", "right to 20 ms"),
        (NOW_S, Discipline(True, 4.0), "warn", "to 4.0 s only"),
        (NOW_S, Discipline(False, 16.0), "warn", "kept right by nobody"),
        (NOW_S, None, "warn", "cannot be seen"),
        (dt.datetime(2019, 12, 31, tzinfo=dt.UTC).timestamp(), Discipline(True, 0.02), "fail", "2019-12-31"),
    ],
)
def test_clocks(tmp_path: Path, now: float, discipline: Discipline | None, level: str, words: str) -> None:
    computer = Computer(tmp_path / "root", now_s=lambda: now, discipline=lambda: discipline)
    (found,) = clock.clock(computer.host)
    assert (found.level, words in found.text) == (level, True), found
    assert ("no battery" in found.text) is (level == "ok" or "nobody" in words)
    computer.file("/sys/class/rtc/rtc0/name")
    (found,) = clock.clock(computer.host)
    assert "no battery" not in found.text


def test_what_the_kernel_says_of_its_clock() -> None:
    """Beside what another program makes of the same call."""
    found = kernel_discipline()
    assert found is not None
    assert 0 <= found.max_error_s < 3600
    shown = subprocess.run(
        ["timedatectl", "show", "-p", "NTPSynchronized", "--value"], capture_output=True, text=True
    )
    if shown.returncode == 0:
        assert found.synchronised == (shown.stdout.strip() == "yes")


# Heat and power


@pytest.mark.parametrize(("milli", "level"), [("51234", "ok"), ("78000", "warn"), ("86000", "fail")])
def test_heat(computer: Computer, milli: str, level: str) -> None:
    computer.file("/sys/class/thermal/thermal_zone0/temp", f"{milli}\n")
    computer.file("/sys/class/thermal/thermal_zone1/temp", "40000\n")
    computer.file("/sys/class/thermal/thermal_zone2/temp", "\n")
    (found,) = heat.heat(computer.host)
    assert found.level == level
    assert found.text.startswith(f"{round(int(milli) / 1000)} °C")


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0", [("ok", "enough")]),
        ("50000", [("warn", "the supply's voltage was too low, it was slowed down")]),
        ("50005", [("fail", "the supply's voltage is too low, it is slowed down")]),
        ("80008", [("fail", "it is hot")]),
        ("10002", [("fail", "its frequency is capped"), ("warn", "voltage was too low")]),
    ],
)
@pytest.mark.parametrize("how", ["sysfs", "vcgencmd"])
def test_a_raspberry_pi_says_whether_it_was_slowed_down(
    tmp_path: Path, bits: str, expected: list[tuple[str, str]], how: str
) -> None:
    def output(command: Sequence[str]) -> str | None:
        return f"throttled=0x{bits}\n" if command == ("vcgencmd", "get_throttled") else None

    computer = Computer(tmp_path / "root", output=output)
    if how == "sysfs":
        computer.file("/sys/devices/platform/soc/soc:firmware/get_throttled", f"{bits}\n")
    else:
        assert list(heat.heat(computer.host)) == []  # no Raspberry Pi: nobody is asked
        computer.file("/proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    found = list(heat.heat(computer.host))
    assert [(f.level, words in f.text) for f, (_, words) in zip(found, expected, strict=True)] == [
        (level, True) for level, _ in expected
    ], found


def test_low_voltage_as_newer_kernels_tell_it(computer: Computer) -> None:
    computer.file("/sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    computer.file("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert levels(heat.heat(computer.host)) == ["fail"]


# Software


def test_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(software.runtime()) == ["ok"]
    monkeypatch.setattr(software, "_TRY", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    (found,) = software.runtime()
    assert (found.level, "SIGILL" in found.text) == ("fail", True)
    fails = "from models.runtime import RuntimeUnavailable as R; raise R('none works here. Install one: pip')"
    monkeypatch.setattr(software, "_TRY", fails)
    (found,) = software.runtime()
    assert (found.level, found.text) == ("fail", "none works here")
    falls = "import sys; print('falling back to y 2 (x: broken)', file=sys.stderr); print('y 2')"
    monkeypatch.setattr(software, "_TRY", falls)
    (found,) = software.runtime()
    assert found.level == "warn"
    monkeypatch.setattr(software, "_TRY", "import time; time.sleep(60)")
    monkeypatch.setattr(software, "RUNTIME_S", 0.5)
    (found,) = software.runtime()
    assert (found.level, "does not come up" in found.text) == ("fail", True)


def test_models_that_load_and_one_that_does_not(tmp_path: Path) -> None:
    loaded = load_config(config_with_model(tmp_path, 1))
    _, (found,) = software.assembled(loaded)
    assert found.level == "ok"
    assert found.text.startswith("fixture v1 for 1 device on cpu-float32")
    wrong = replace(loaded, devices=tuple(replace(d, model=tmp_path / "none") for d in loaded.devices))
    _, (found,) = software.assembled(wrong)
    assert found.level == "fail"
    assert "edge-node check" in found.remedy
    core, (found, *_) = software.assembled(wants(tmp_path, "auto"))
    assert core is not None
    assert (found.level, "Edge TPU" in found.text) == ("warn", True)
    assert found.remedy.startswith("install the Edge TPU runtime")
    assert "; scoring on cpu-float32" in found.text
    _, (found, *_) = software.assembled(wants(tmp_path, "auto"), gateway_runs=True)
    assert "a gateway runs here" in found.remedy


# All of it


def test_a_check_that_hangs_holds_up_nothing() -> None:
    forever = threading.Event()

    def hangs() -> list[Finding]:
        forever.wait(30)
        return []

    (found,) = cli_doctor.found_within(0.1, "disk", cli_doctor.begun("disk", hangs))
    forever.set()
    assert (found.check, found.level) == ("disk", "fail")
    assert "no answer within 0.1 s" in found.text


def test_a_defect_of_a_check_is_told() -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        cli_doctor.found_within(5, "x", cli_doctor.begun("x", broken))


def test_lines_are_aligned_and_wrapped() -> None:
    lines = list(shown(warn("disk", "words " * 20, "do " * 30), 80, colours=False))
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("  warn  disk            words")
    assert all(line.startswith(" " * 24) for line in lines[1:])
    assert sum("→" in line for line in lines) == 1
    (again,) = shown(ok("disk", "more"), 80, colours=False, named=False)
    assert again == f"  ok    {'':14}  more"
    (coloured,) = shown(fail("disk", "x", ""), 80, colours=True)
    assert coloured.startswith("  \x1b[31mfail\x1b[0m  disk")
    assert total([ok("a", ""), warn("b", "", ""), ok("c", "")]) == "1 to look at, 2 ok"


def test_a_configuration_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[gateway]\nname = "g"\nnonsense = 1\n')
    done = subprocess.run(edge_node("doctor", "-c", path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "line 3: [gateway]: nonsense = 1: unknown key" in done.stdout
    assert "runtime" in done.stdout  # what does not depend on it is looked at all the same
    assert "clock" in done.stdout
    assert "uplink" not in done.stdout
    assert done.stderr == ""


def test_the_real_computer_is_read_without_a_stumble(tmp_path: Path) -> None:
    host = Host()
    loaded = configured(tmp_path)
    for found in (
        ports.serial(host, loaded),
        edgetpu.edge_tpu(host, loaded),
        files.user(host, Path()),
        disk.disk(host, loaded, None),
        clock.clock(host),
        heat.heat(host),
    ):
        assert all(f.text for f in found)
