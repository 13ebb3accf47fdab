"""Opens and runs the files of make.py, and compares the memory taken with the plan's.

usage: rehearse.py BIN MODEL FILES [--json FILE]

BIN: folder of the executables; MODEL: samples/models/shapes-tiny; FILES: make.py's folder. For each layout: seconds
and memory of --plan (the files are opened, checked and planned), then one step and its decoding at 64x64x5. What a
run takes beyond its plan is compared with what the bundled model takes beyond its own (driver, compiled kernels,
program). "private" is memory that no file stands behind: weights that were copied would show there. Exit code 1: a
layout failed, or took more beyond its plan than the bundled model does and a quarter of a GiB.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ALLOWANCE = 256 << 20
CLIP = ["-p", "a large red circle moves right on a black background", "--size", "64x64", "--frames", "5"]
SAMPLING = ["--steps", "1", "--guidance-scale", "1", "-q"]


def private_bytes(pid):
    """Anonymous and shared memory; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
    except (OSError, KeyError):
        return None


def watch(command):
    """Exit code, output, seconds and peak of private memory."""
    begun, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, private_bytes(process.pid) or 0)
            time.sleep(0.01)
        output.seek(0)
        return process.returncode, output.read().strip(), time.monotonic() - begun, peak


def rehearse(binaries, flags, picture):
    program = [f"{binaries}/quantsparse-video", *flags, *CLIP, *SAMPLING]
    code, text, plan_seconds, plan_memory = watch(program + ["--plan", "--json"])
    if code:
        return {"error": text}
    # Warnings stand before the JSON.
    plan = json.loads(text[text.index("{\n"):])
    code, text, seconds, peak = watch(program + ["-o", picture])
    if code:
        return {"error": text}
    return {"plan_seconds": plan_seconds, "plan_private_bytes": plan_memory, "planned_bytes": plan["peak_bytes"] +
            max(stage["host_bytes"] for stage in plan["stages"]), "private_bytes": peak, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries")
    parser.add_argument("model")
    parser.add_argument("files")
    parser.add_argument("--json")
    a = parser.parse_args()
    with open(f"{a.files}/layouts.json") as file:
        layouts = {"bundled model": ["-m", a.model]} | json.load(file)
    results, failed = {}, False
    print(f"{'':34}{'--plan':>8}{'private':>10}{'planned':>10}{'taken':>10}{'beyond':>10}{'run':>8}")
    for name, flags in layouts.items():
        with tempfile.TemporaryDirectory() as folder:
            r = rehearse(a.binaries, flags, f"{folder}/clip.gif")
        if "error" in r:
            print(f"{name:34}FAILED: {r['error']}")
            failed = True
            continue
        results[name] = r
        r["beyond_bytes"] = r["private_bytes"] - r["planned_bytes"]
        failed |= r["beyond_bytes"] > results["bundled model"]["beyond_bytes"] + ALLOWANCE
        numbers = [r[key] / 2 ** 20 for key in ("plan_private_bytes", "planned_bytes", "private_bytes", "beyond_bytes")]
        print(f"{name:34}{r['plan_seconds']:6.2f} s" + "".join(f"{n:6.0f} MiB" for n in numbers)
              + f"{r['seconds']:6.1f} s", flush=True)
    if a.json:
        with open(a.json, "w") as file:
            json.dump({"command": " ".join(sys.argv), "layouts": results}, file, indent=2)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
