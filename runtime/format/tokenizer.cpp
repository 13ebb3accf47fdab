#include "format/tokenizer.hpp"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <cstdint>
#include <string>

#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

constexpr int kPad = 0;
constexpr int kEnd = 1;

struct CodePoint {
    std::uint32_t value;
    std::size_t length;  ///< bytes; 0: not valid UTF-8
};

bool is_continuation(unsigned char byte) {
    return (byte & 0xC0) == 0x80;
}

// Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
CodePoint decode_utf8(std::string_view text) {
    const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = at(0);
    if (first < 0x80) {
        return {first, 1};
    }
    const std::size_t length = first >= 0xF5   ? 0
                               : first >= 0xF0 ? 4
                               : first >= 0xE0 ? 3
                               : first >= 0xC2 ? 2
                                               : 0;
    if (length == 0 || text.size() < length) {
        return {0, 0};
    }
    std::uint32_t value = first & (0x7Fu >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if (!is_continuation(at(i))) {
            return {0, 0};
        }
        value = value << 6 | (at(i) & 0x3Fu);
    }
    const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
    const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
    return {value, overlong || surrogate || value > 0x10FFFF ? 0 : length};
}

// What upstream's `\s` matches.
bool is_space(std::uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

// Runs of white space become one blank, none at the ends: upstream's "whitespace" clean. Its repair
// of mis-decoded text and HTML entities is left out: prompts are taken as they are written.
std::string clean(std::string_view prompt) {
    std::string cleaned;
    bool pending_space = false;
    for (std::size_t offset = 0; offset < prompt.size();) {
        const CodePoint point = decode_utf8(prompt.substr(offset));
        if (point.length == 0) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("the prompt is not valid UTF-8 at byte {}: save or pass it as "
                                    "UTF-8 text",
                                    offset));
        }
        if (is_space(point.value)) {
            pending_space = !cleaned.empty();
        } else {
            if (pending_space) {
                cleaned += ' ';
                pending_space = false;
            }
            cleaned += prompt.substr(offset, point.length);
        }
        offset += point.length;
    }
    return cleaned;
}

}  // namespace

struct Tokenizer::Impl {
    sentencepiece::SentencePieceProcessor processor;
};

Tokenizer::Tokenizer(std::span<const std::byte> model) : impl_(std::make_unique<Impl>()) {
    const std::string_view bytes(reinterpret_cast<const char*>(model.data()), model.size());
    const auto status = impl_->processor.LoadFromSerializedProto(bytes);
    if (bytes.empty() || !status.ok() || impl_->processor.GetPieceSize() <= kEnd) {
        throw Error(ErrorCode::bad_file,
                    "the tokenizer (spiece.model, or the tensor spiece_model of a ComfyUI text "
                    "encoder) is not a sentencepiece model; copy it from the model's page");
    }
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

TokenIds Tokenizer::encode(std::string_view prompt, int text_len) const {
    if (text_len < 1) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("text length is {}: it must hold at least the end token", text_len));
    }
    TokenIds result;
    const std::string cleaned = clean(prompt);
    if (!cleaned.empty()) {
        const auto status = impl_->processor.Encode(cleaned, &result.ids);
        if (!status.ok()) {
            throw Error(ErrorCode::bad_file,
                        "the tokenizer could not encode the prompt: check tokenizer/spiece.model");
        }
    }
    const std::size_t room = static_cast<std::size_t>(text_len) - 1;
    result.truncated = result.ids.size() > room;
    if (result.truncated) {
        result.ids.resize(room);
    }
    result.ids.push_back(kEnd);
    result.valid_count = static_cast<int>(result.ids.size());
    result.ids.resize(static_cast<std::size_t>(text_len), kPad);
    return result;
}

}  // namespace quantsparse::format
