// Prompts to token ids, through the tokenizer module (see CMakeLists.txt why it is one).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace quantsparse::calib {

/// The valid ids of each prompt, the end token included. Throws Error(bad_file) for an unusable
/// model, Error(invalid_argument) for invalid UTF-8.
std::vector<std::vector<int>> tokenize_prompts(std::span<const std::byte> sentencepiece_model,
                                               const std::vector<std::string>& prompts,
                                               int text_len);

}  // namespace quantsparse::calib
