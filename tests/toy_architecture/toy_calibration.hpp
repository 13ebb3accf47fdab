// The made-up transformer on LibTorch, for the calibrator.
#pragma once

namespace quantsparse::toy {

/// Makes the calibrator know it; once per process.
void register_toy_calibration();

}  // namespace quantsparse::toy
