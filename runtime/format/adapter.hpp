// A LoRA file, and what it changes of a network (lora facts 55-59).
//
// A file is opened without knowing what it is for; changes_for() finds its modules among those of a
// network by the description. Files come from strangers: every shape and number is checked.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "format/adapter_keys.hpp"
#include "format/network.hpp"
#include "format/tensor_source.hpp"

namespace quantsparse::format {

/// factor * up * down, beside the strength that the user chooses.
struct LowRankTerm {
    TensorView down;    ///< [rank, …], as many elements a row as the weight has
    TensorView up;      ///< [out, rank]
    double factor = 1;  ///< alpha / rank
    std::int64_t rank() const { return down.shape.front(); }
};

/// factor * values, of the tensor's own number of elements.
struct DifferenceTerm {
    TensorView values;
    double factor = 1;
};

/// All that is added to one tensor.
struct TensorChange {
    std::vector<LowRankTerm> low_rank;
    std::vector<DifferenceTerm> differences;
};

struct AdapterChanges {
    std::map<std::string, TensorChange> tensors;  ///< by canonical name
    std::vector<std::string> unused;  ///< names on disk of what the network has no place for
};

/// Which of a model's transformers is asked about, in the order of the steps.
struct ExpertPlace {
    int index = 0;
    int count = 1;
};

class AdapterFile {
  public:
    /// Throws Error(io|bad_file), and Error(unsupported) naming a kind of adapter that is not read.
    explicit AdapterFile(const std::filesystem::path& path);

    /// Of a file for two experts ("transformer." and "transformer_2.") those of the one asked
    /// about. Throws Error(bad_file) naming the tensor for shapes that don't fit, half a pair and
    /// numbers that are none, and Error(unsupported) when nothing fits.
    AdapterChanges changes_for(const Network& network, ExpertPlace expert = {}) const;

    const std::filesystem::path& path() const { return source_->path(); }
    const std::map<std::string, std::string>& metadata() const { return source_->metadata(); }
    /// Keeps the tensors that changes_for() returned alive.
    const std::shared_ptr<const TensorSource>& source() const { return source_; }

  private:
    using Module = std::map<AdapterPart, const TensorView*>;

    void refuse_other_kinds() const;

    std::shared_ptr<const TensorSource> source_;
    std::map<std::string, Module, std::less<>> modules_;  ///< by the file's own spelling
    std::vector<std::string> strange_;                    ///< names that are no LoRA's
};

}  // namespace quantsparse::format
