// Renaming tensors of other layouts to the original Wan2.1 names.
//
// Layouts differ in names only, never in the tensors themselves (wan fact 23). Known: diffusers
// for the transformer and the VAE, Transformers for UMT5, ComfyUI's prefix
// `model.diffusion_model.`.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/checkpoint.hpp"

namespace quantsparse::format {

/// Renames all the tensors of one network. Made once per checkpoint, since the naming (and for the
/// VAE the number of residual blocks a stage) shows only in the whole list of names.
class NameMapper {
  public:
    NameMapper(Component component, const std::vector<std::string>& names_on_disk);

    /// The original Wan2.1 name, or nothing for a tensor that does not belong to the network.
    std::optional<std::string> canonical(std::string_view name_on_disk) const;

  private:
    Component component_;
    std::string prefix_;
    bool upstream_naming_ = true;     ///< original names; false: diffusers or Transformers
    bool repeats_embedding_ = false;  ///< encoder.embed_tokens is a copy of shared
    int decoder_stage_length_ =
        4;  ///< entries of decoder.upsamples per stage, the upsampler included
};

}  // namespace quantsparse::format
