// One network's tensors under one naming (upstream's own), whatever the layout on disk: a diffusers
// folder, original files, ComfyUI single files, sharded or not, or a part of a quantised model
// file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/network.hpp"
#include "format/tensor_source.hpp"

namespace quantsparse::format {

/// The prefix under which the names hold a network of the kind, by its marks; nothing: they don't.
std::optional<std::string> find_prefix(const NetworkKind& kind,
                                       const std::vector<std::string>& names);

/// A view of one network's tensors with canonical names: upstream's own.
class Checkpoint {
  public:
    /// `path`: a file of weights, an .index.json, or a folder that holds either. Detects the
    /// naming, and decodes weights that have their scales beside them.
    static Checkpoint open(const std::filesystem::path& path, const NetworkKind& kind);
    /// A view over files that are open already (the networks of a model file share one). `prefix`:
    /// of the network's tensors; by default the one under which the kind's marks are.
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
    /// Names of tensors on disk that lie under none of the kind's names: of other networks, or
    /// nobody's.
    const std::vector<std::string>& outside() const { return outside_; }
    /// A tensor of the files that isn't the network's, by its name or by the end of it after a dot.
    const TensorView* find_outside(std::string_view name) const;
    std::vector<std::string> names_on_disk() const;
    /// Whether the kind's marks were found.
    bool recognised() const { return recognised_; }

    /// A linear whose integer codes can be run as they are: the columns of its rotation's groups,
    /// 0 without a rotation; nullptr for other linears (encoded_weights.hpp).
    const int* native(std::string_view linear) const;
    void set_native(const std::string& linear, int rotation) { native_[linear] = rotation; }
    /// What the header says of a linear's encoding (quantised-checkpoints fact 62); or nullptr.
    const nlohmann::json* stated_encoding(std::string_view linear) const;

    /// Puts a tensor in the place of the one of its name, or beside the others.
    void put(TensorView tensor) { tensors_.insert_or_assign(tensor.name, std::move(tensor)); }
    /// Keeps a file open that a tensor put here reads from.
    void keep(std::shared_ptr<const TensorSource> file) { files_.push_back(std::move(file)); }
    void erase(const std::string& canonical_name) { tensors_.erase(canonical_name); }
    const std::filesystem::path& path() const { return path_; }
    const std::vector<std::shared_ptr<const TensorSource>>& files() const { return files_; }

  private:
    void add(const TensorView& view, const std::optional<std::string>& canonical);

    std::filesystem::path path_;
    std::vector<std::shared_ptr<const TensorSource>> files_;  ///< keep the mappings alive
    bool of_ggml_ = false;                                    ///< one of the files has its shapes
    std::map<std::string, TensorView, std::less<>> tensors_;
    bool recognised_ = false;
    std::string prefix_;  ///< of the network's tensors on disk
    std::vector<std::string> outside_;
    std::map<std::string, int, std::less<>> native_;
    std::map<std::string, nlohmann::json, std::less<>> stated_;
};

}  // namespace quantsparse::format
