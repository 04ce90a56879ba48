"""Hold a plan by `bench` against a real run: hours and bytes.

    python benchmarks/plan.py [VECTORS] [--model smollm2-135m] [--texts 4000]

What `moralprobe bench` measures goes into `plan_extraction`; then the same table is extracted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
    os.environ.pop(name, None)

from extraction import table_of, texts_of  # noqa: E402
from results_file import write  # noqa: E402


def main() -> None:
    """Measure, plan, run, and write `results/plan.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("vectors", nargs="*", default=["starter"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=4000)
    options = parser.parse_args()
    from moralprobe import extract, load_model, plan_extraction
    from moralprobe.activations.calibrate import measure_rate
    from moralprobe.activations.plan import BATCH_TOKENS

    table = table_of(texts_of(options.vectors, options.texts))
    model = load_model(options.model)
    rate = measure_rate(model)
    (cost,) = plan_extraction(
        options.model,
        table,
        batch_tokens=BATCH_TOKENS[model.device.type],
        device_tflops=rate.tflops,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        extract(model, table, Path(folder) / "store")
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in (Path(folder) / "store").iterdir())
    summary = {
        "model": options.model,
        "device": model.device.type,
        "texts": cost.texts,
        "tflops": rate.tflops,
        "planned_seconds": round(cost.gpu_hours * 3600, 1),
        "seconds": round(seconds, 1),
        "planned_bytes": cost.disk_bytes,
        "bytes": written,
    }
    shown = " ".join("VECTORS" if path != "starter" else path for path in options.vectors)
    print(write("plan", f"python benchmarks/plan.py {shown} --texts {options.texts}", summary))
    print(summary)


if __name__ == "__main__":
    main()
