// One network's tensors under one naming (upstream's own), whatever the layout on disk: a diffusers
// folder, original files, ComfyUI single files, sharded or not, or a part of a quantised model
// file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/network.hpp"
#include "format/tensor_source.hpp"

namespace quantsparse::format {

/// A view of one network's tensors with canonical names: upstream's own.
class Checkpoint {
  public:
    /// `path`: a .safetensors file, an .index.json, or a folder that holds either. Detects the
    /// naming.
    static Checkpoint open(const std::filesystem::path& path, const NetworkKind& kind);
    /// A view over files that are open already (the networks of a model file share one). `prefix`:
    /// of the network's tensors; by default the first of the kind's that is met.
    Checkpoint(const std::filesystem::path& path,
               std::vector<std::shared_ptr<const TensorSource>> files, const NetworkKind& kind,
               std::optional<std::string> prefix = {});

    const TensorView* find(std::string_view canonical_name) const;
    /// Throws Error(bad_file) naming file and tensor.
    const TensorView& at(std::string_view canonical_name) const;
    /// at() plus a shape check; the message gives both shapes. In GGUF files dimensions of one may
    /// be missing, and the two outermost of five be one.
    const TensorView& at(std::string_view canonical_name,
                         const std::vector<std::int64_t>& shape) const;
    std::vector<std::string> names() const;  ///< canonical, sorted
    /// Puts a tensor in the place of the one of its name, or beside the others.
    void put(TensorView tensor) { tensors_.insert_or_assign(tensor.name, std::move(tensor)); }
    void remove(const std::string& name) { tensors_.erase(name); }
    /// Keeps a file open that a tensor put here reads from.
    void keep(std::shared_ptr<const TensorSource> file) { files_.push_back(std::move(file)); }
    const std::filesystem::path& path() const { return path_; }
    const std::vector<std::shared_ptr<const TensorSource>>& files() const { return files_; }

  private:
    std::filesystem::path path_;
    std::vector<std::shared_ptr<const TensorSource>> files_;  ///< keep the mappings alive
    bool of_ggml_ = false;                                    ///< one of the files has its shapes
    std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace quantsparse::format
