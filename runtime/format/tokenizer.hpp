// Prompt to token ids with a sentencepiece model (UMT5 conventions: pad 0, end 1, unknown 2).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace quantsparse::format {

struct TokenIds {
    std::vector<int> ids;    ///< text_len entries, padded with 0, ended by 1
    int valid_count = 0;     ///< entries before the padding, the end token included
    bool truncated = false;  ///< the prompt was longer than text_len
};

class Tokenizer {
  public:
    /// `model`: the bytes of a spiece.model. Throws Error(bad_file).
    explicit Tokenizer(std::span<const std::byte> model);
    ~Tokenizer();
    Tokenizer(Tokenizer&&) noexcept;

    /// Cleans (whitespace collapsed, as upstream's "whitespace" clean), encodes, appends 1,
    /// truncates to text_len (keeping the end token) and pads. Throws Error(invalid_argument) for
    /// invalid UTF-8.
    TokenIds encode(std::string_view prompt, int text_len) const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace quantsparse::format
