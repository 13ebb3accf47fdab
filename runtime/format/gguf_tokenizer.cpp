// sentencepiece reads a protocol-buffer message, ModelProto; it is small enough to be written here.
#include "format/gguf_tokenizer.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

constexpr const char* kInstead = "give the spiece.model of the text encoder's release";

// Kinds of pieces, which llama.cpp and sentencepiece number alike.
constexpr int kUnknown = 2;
constexpr int kByte = 6;
constexpr int kLastType = 6;

/// Fields of a protocol-buffer message.
class Message {
  public:
    void number(unsigned field, std::uint64_t value) {
        varint(field << 3);
        varint(value);
    }
    void real(unsigned field, float value) {
        varint(field << 3 | 5);
        char bytes[sizeof value];
        std::memcpy(bytes, &value, sizeof value);
        bytes_.append(bytes, sizeof bytes);
    }
    void text(unsigned field, std::string_view value) {
        varint(field << 3 | 2);
        varint(value.size());
        bytes_.append(value);
    }
    const std::string& bytes() const { return bytes_; }

  private:
    void varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) {
            bytes_ += static_cast<char>(value | 0x80);
        }
        bytes_ += static_cast<char>(value);
    }

    std::string bytes_;
};

/// The entries `tokenizer.ggml.<name>` of a file.
class Entries {
  public:
    explicit Entries(const GgufFile& file) : file_(file) {}

    [[noreturn]] void reject(const char* name, const std::string& what,
                             ErrorCode code = ErrorCode::bad_file) const {
        throw Error(code, fmt::format("'{}': tokenizer.ggml.{} {}; {}", file_.path().string(), name,
                                      what, kInstead));
    }
    const GgufArray* find_array(const char* name) const {
        return file_.array(std::string("tokenizer.ggml.") + name);
    }
    /// Of strings or of numbers, as many as there are tokens.
    const GgufArray& array(const char* name, bool strings) const {
        const GgufArray* found = find_array(name);
        if (found == nullptr) {
            reject(name, "is not in its metadata");
        }
        if (found->of_strings() != strings) {
            reject(name, strings ? "does not hold strings" : "does not hold numbers");
        }
        return *found;
    }
    std::optional<std::string> value(const char* name) const {
        const auto found = file_.metadata().find(std::string("tokenizer.ggml.") + name);
        return found == file_.metadata().end() ? std::nullopt : std::optional(found->second);
    }
    void require(const char* name, const char* wanted) const {
        const auto given = value(name);
        if (given && *given != wanted) {
            reject(name, fmt::format("is '{}' where '{}' is supported", printable(*given), wanted),
                   ErrorCode::unsupported);
        }
    }

  private:
    const GgufFile& file_;
};

/// ModelProto.pieces; sets whether any is a byte.
void add_pieces(const Entries& entries, Message& model, bool& bytes) {
    const auto tokens = entries.array("tokens", true).strings();
    const auto scores = entries.array("scores", false).numbers();
    const auto types = entries.array("token_type", false).numbers();
    for (const auto& [name, count] :
         {std::pair{"scores", scores.size()}, std::pair{"token_type", types.size()}}) {
        if (count != tokens.size()) {
            entries.reject(name, fmt::format("has {} entries for {} tokens", count, tokens.size()));
        }
    }
    int unknown = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i].empty()) {
            entries.reject("tokens", fmt::format("has an empty token, {}", i));
        }
        if (!(types[i] >= 1 && types[i] <= kLastType)) {
            entries.reject("token_type",
                           fmt::format("has the unknown type {} of token {}", types[i], i));
        }
        const int type = static_cast<int>(types[i]);
        unknown += type == kUnknown ? 1 : 0;
        bytes = bytes || type == kByte;
        Message piece;
        piece.text(1, tokens[i]);
        piece.real(2, static_cast<float>(scores[i]));
        piece.number(3, static_cast<std::uint64_t>(type));
        model.text(1, piece.bytes());
    }
    if (unknown != 1) {
        entries.reject("token_type",
                       fmt::format("marks {} tokens as unknown where one is needed", unknown));
    }
}

/// NormalizerSpec: what is done to a text before it is cut into pieces.
Message normalizer(const Entries& entries) {
    Message spec;
    if (const GgufArray* map = entries.find_array("precompiled_charsmap")) {
        if (map->bytes.size() != map->count) {
            entries.reject("precompiled_charsmap", "does not hold bytes");
        }
        spec.text(2, {reinterpret_cast<const char*>(map->bytes.data()), map->bytes.size()});
    }
    const auto flag = [&](const char* name) {  // sentencepiece's own default is true
        return entries.value(name).value_or("true") == "true" ? 1U : 0U;
    };
    spec.number(3, flag("add_space_prefix"));
    spec.number(4, flag("remove_extra_whitespaces"));
    return spec;
}

}  // namespace

std::vector<std::byte> gguf_tokenizer(const GgufFile& file) {
    const Entries entries(file);
    entries.require("model", "t5");  // pieces with scores: sentencepiece's unigram model
    // Tokenizer ends and pads with these whatever the file says.
    entries.require("eos_token_id", "1");
    entries.require("padding_token_id", "0");
    Message model;
    bool bytes = false;
    add_pieces(entries, model, bytes);
    Message trainer;
    trainer.number(35, bytes ? 1 : 0);  // byte_fallback
    model.text(2, trainer.bytes());
    model.text(3, normalizer(entries).bytes());
    const auto* begin = reinterpret_cast<const std::byte*>(model.bytes().data());
    return {begin, begin + model.bytes().size()};
}

std::optional<std::vector<std::byte>> gguf_tokenizer(const Checkpoint& checkpoint) {
    for (const auto& file : checkpoint.files()) {
        if (const auto* gguf = dynamic_cast<const GgufFile*>(file.get())) {
            return gguf_tokenizer(*gguf);
        }
    }
    return std::nullopt;
}

}  // namespace quantsparse::format
