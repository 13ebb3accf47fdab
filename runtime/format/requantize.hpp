// 8-bit weights made while a model is loaded, without calibration: for models that come in
// floating point or in blocks of a GGUF file.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "format/model_bundle.hpp"

namespace quantsparse::format {

/// How far the codes are from the weights, over all linears that were read so far. Any thread may
/// use it.
class RequantizationError {
  public:
    /// Sums over a linear: of the squared differences and of the squared weights.
    void add(double difference, double weight);
    /// ||codes * scale - W|| / ||W||; 0 while nothing was read.
    double relative() const;

  private:
    mutable std::mutex mutex_;
    double difference_ = 0;
    double weight_ = 0;
};

/// `component` with all linears of its blocks packed (model_file.hpp): symmetric per output
/// channel, as quantize_weight() does it. Codes and scales are computed whenever they are read, a
/// few rows at a time, so that no copy of the file is kept. `error` gets each linear once. Throws
/// Error(invalid_argument) with the field `requantize` for other bits than 8.
Component requantize(const Component& component, int weight_bits,
                     std::shared_ptr<RequantizationError> error);

/// The same for these components of a model, whose activations are then quantised to 8 bits, too.
/// Throws Error(invalid_argument) with the field `requantize` for a model that is quantised.
void requantize(ModelBundle& model, const std::vector<std::string>& roles, int weight_bits,
                const std::shared_ptr<RequantizationError>& error);

}  // namespace quantsparse::format
