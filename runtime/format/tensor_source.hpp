// Where a checkpoint's tensors lie: a file that is open, whatever its format.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "format/tensor.hpp"

namespace quantsparse::format {

class TensorSource {
  public:
    virtual ~TensorSource() = default;
    virtual const std::filesystem::path& path() const = 0;
    virtual const std::map<std::string, std::string>& metadata() const = 0;
    /// By their names on disk; valid as long as the source lives.
    virtual const std::map<std::string, TensorView, std::less<>>& tensors() const = 0;
    /// Whether shapes are ggml's, which has four dimensions and leaves out those of one.
    virtual bool has_ggml_shapes() const { return false; }

    const TensorView* find(std::string_view name) const;
    /// Throws Error(bad_file) naming file and tensor.
    const TensorView& at(std::string_view name) const;
};

/// Opens a file of any format known, by its first bytes. Throws Error(io|bad_file).
std::shared_ptr<const TensorSource> open_tensor_source(const std::filesystem::path& path);

}  // namespace quantsparse::format
