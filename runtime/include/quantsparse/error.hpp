// The one exception type of quantsparse. A message says what went wrong, where, and what to do
// next, on one line. It names fields of the API's structs, never flags of a command line.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

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
    /// `field`: the parameter that is to be changed, as its struct calls it ("density").
    Error(ErrorCode code, const std::string& message, std::string field = {})
        : std::runtime_error(message), code_(code), field_(std::move(field)) {}
    ErrorCode code() const noexcept { return code_; }
    /// Empty when no single parameter is to blame. Programs say which of their flags sets it.
    const std::string& field() const noexcept { return field_; }

  private:
    ErrorCode code_;
    std::string field_;
};

}  // namespace quantsparse
