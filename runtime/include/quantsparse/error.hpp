// The one exception type of quantsparse. A message says what went wrong, where, and what to do
// next, on one line, so that an executable can print it as it is.
#pragma once

#include <stdexcept>
#include <string>

namespace quantsparse {

enum class ErrorCode {
    invalid_argument,  ///< a parameter is out of range or two of them contradict each other
    bad_file,          ///< a file exists but its contents can't be trusted
    io,                ///< reading or writing failed (missing file, full disk, permissions)
    unsupported,       ///< valid, but not something this version can do
    device,            ///< no such device, or the driver reported a failure
    out_of_memory,     ///< the plan exceeds the device's budget or an allocation failed
    non_finite,        ///< NaN or infinity where numbers were expected
};

class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

}  // namespace quantsparse
