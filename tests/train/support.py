"""Where samples/train lies, on the import path."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "samples/train"
sys.path.insert(0, str(TRAIN))
