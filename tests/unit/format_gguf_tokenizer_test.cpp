// A text encoder's tokenizer from GGUF metadata against the spiece.model it was made from.
#include "format/gguf_tokenizer.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <iterator>

#include "format/tokenizer.hpp"
#include "unit/format_support.hpp"
#include "unit/gguf_support.hpp"

namespace quantsparse::format::test {
namespace {

/// A field of a protocol-buffer message: a number or bytes, whichever it has.
struct Field {
    unsigned number = 0;
    std::uint64_t value = 0;
    std::string_view bytes;
};

std::vector<Field> fields_of(std::string_view message) {
    std::vector<Field> fields;
    std::size_t at = 0;
    const auto varint = [&] {
        std::uint64_t value = 0;
        for (int shift = 0;; shift += 7) {
            const auto byte = static_cast<unsigned char>(message.at(at++));
            value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) {
                return value;
            }
        }
    };
    while (at < message.size()) {
        const auto tag = varint();
        Field field{static_cast<unsigned>(tag >> 3), 0, {}};
        if ((tag & 7) == 0) {
            field.value = varint();
        } else {
            const std::size_t size = (tag & 7) == 5 ? 4 : varint();
            field.bytes = message.substr(at, size);
            at += size;
        }
        fields.push_back(field);
    }
    return fields;
}

/// What llama.cpp's converter writes.
struct Arrays {
    std::vector<std::string> tokens;
    std::vector<float> scores;
    std::vector<std::int32_t> types;
    std::string characters;

    explicit Arrays(std::string_view spiece) {
        for (const Field& field : fields_of(spiece)) {
            if (field.number == 1) {
                add_piece(field.bytes);
            } else if (field.number == 3) {
                for (const Field& of_normalizer : fields_of(field.bytes)) {
                    if (of_normalizer.number == 2) {
                        characters = of_normalizer.bytes;
                    }
                }
            }
        }
    }
    void add_piece(std::string_view piece) {
        tokens.emplace_back();
        scores.push_back(0);
        types.push_back(1);
        for (const Field& field : fields_of(piece)) {
            if (field.number == 1) {
                tokens.back() = field.bytes;
            } else if (field.number == 2) {
                std::memcpy(&scores.back(), field.bytes.data(), sizeof(float));
            } else if (field.number == 3) {
                types.back() = static_cast<std::int32_t>(field.value);
            }
        }
    }
    void add_to(GgufBuilder& file) const {
        file.strings("tokenizer.ggml.tokens", tokens)
            .numbers("tokenizer.ggml.scores", GgufBuilder::f32, scores)
            .numbers("tokenizer.ggml.token_type", GgufBuilder::i32, types);
    }
};

std::string bundled_spiece() {
    std::ifstream in(QUANTSPARSE_TEST_ROOT "/samples/models/shapes-tiny/tokenizer/spiece.model",
                     std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

class GgufTokenizer : public testing::Test {
  protected:
    Tokenizer open(const GgufBuilder& builder) {
        write_text(folder_ / "encoder.gguf", builder.bytes());
        return Tokenizer(gguf_tokenizer(GgufFile(folder_ / "encoder.gguf")));
    }
    void expect_refusal(ErrorCode code, const std::vector<std::string>& pieces,
                        const GgufBuilder& builder) {
        expect_error(code, pieces, [&] { open(builder); });
    }
    TemporaryFolder folder_;
};

GgufBuilder with_model() {
    GgufBuilder builder;
    builder.string("tokenizer.ggml.model", "t5");
    return builder;
}

TEST_F(GgufTokenizer, GivesTheIdsOfTheModelItWasMadeFrom) {
    const std::string spiece = bundled_spiece();
    const Arrays arrays(spiece);
    ASSERT_GT(arrays.tokens.size(), 3U);
    auto builder = with_model();
    arrays.add_to(builder);
    builder
        .array("tokenizer.ggml.precompiled_charsmap", GgufBuilder::u8, arrays.characters.size(),
               arrays.characters)
        .flag("tokenizer.ggml.add_space_prefix", true)
        .flag("tokenizer.ggml.remove_extra_whitespaces", true)
        .number("tokenizer.ggml.eos_token_id", 1)
        .number("tokenizer.ggml.padding_token_id", 0);
    const Tokenizer ours = open(builder);
    const Tokenizer original(std::as_bytes(std::span(spiece)));
    for (const char* prompt : {"", "a red circle moves left on a black background",
                               "two  small striped triangles, slowly", "The navy STAR is spinning!",
                               "\xEF\xBC\xA1 ligature \xEF\xAC\x81 and \xC3\xA9",
                               "\xE4\xB8\x80\xE5\x8F\xAA\xE7\x8C\xAB", "  purple \t square  "}) {
        EXPECT_EQ(ours.encode(prompt, 64).ids, original.encode(prompt, 64).ids) << prompt;
    }
}

TEST_F(GgufTokenizer, BytesStandForWhatHasNoToken) {
    std::vector<std::string> tokens = {"<pad>", "</s>", "<unk>", "\xE2\x96\x81"};
    std::vector<std::int32_t> types = {3, 3, 2, 1};
    for (int byte = 0; byte < 256; ++byte) {
        char name[7];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
        tokens.emplace_back(name);
        types.push_back(6);
    }
    auto builder = with_model();
    builder.strings("tokenizer.ggml.tokens", tokens)
        .numbers("tokenizer.ggml.scores", GgufBuilder::f32, std::vector<float>(260, -1.0f))
        .numbers("tokenizer.ggml.token_type", GgufBuilder::i32, types);
    EXPECT_EQ(open(builder).encode("\xC3\xA9", 4).ids,
              (std::vector<int>{3, 4 + 0xC3, 4 + 0xA9, 1}));
}

TEST_F(GgufTokenizer, SaysWhatIsMissingAndWhatToGive) {
    expect_refusal(ErrorCode::bad_file, {"tokenizer.ggml.tokens", "spiece.model"}, GgufBuilder());
    auto other = GgufBuilder();
    other.string("tokenizer.ggml.model", "gpt2");
    expect_refusal(ErrorCode::unsupported, {"tokenizer.ggml.model", "gpt2", "spiece.model"}, other);
    const std::vector<std::string> tokens = {"<pad>", "</s>", "<unk>"};
    const auto with = [&](const std::vector<float>& scores,
                          const std::vector<std::int32_t>& types) {
        auto builder = with_model();
        builder.strings("tokenizer.ggml.tokens", tokens)
            .numbers("tokenizer.ggml.scores", GgufBuilder::f32, scores)
            .numbers("tokenizer.ggml.token_type", GgufBuilder::i32, types);
        return builder;
    };
    expect_refusal(ErrorCode::bad_file, {"scores", "2 entries for 3"}, with({0, 0}, {3, 3, 2}));
    expect_refusal(ErrorCode::bad_file, {"token_type", "unknown type 9"},
                   with({0, 0, 0}, {3, 3, 9}));
    expect_refusal(ErrorCode::bad_file, {"token_type", "0 tokens as unknown"},
                   with({0, 0, 0}, {3, 3, 3}));
    expect_refusal(ErrorCode::unsupported, {"eos_token_id", "'2'"},
                   with({0, 0, 0}, {3, 3, 2}).number("tokenizer.ggml.eos_token_id", 2));
}

TEST_F(GgufTokenizer, ComesFromTheCheckpointsFile) {
    if (golden_root().empty()) {
        GTEST_SKIP() << "no reference cases";
    }
    const auto& kind = network_kind("umt5");
    const auto gguf = Checkpoint::open(golden_root() / "gguf-umt5" / "model.gguf", kind);
    const auto model = gguf_tokenizer(gguf);
    ASSERT_TRUE(model.has_value());
    // Tokens of the case: t0 begins a word and is the fifth, t1 and t2 follow inside one.
    EXPECT_EQ(Tokenizer(*model).encode("t0t1 t3", 5).ids, (std::vector<int>{4, 5, 7, 1, 0}));
    EXPECT_FALSE(
        gguf_tokenizer(Checkpoint::open(golden_root() / "umt5-plain" / "model.safetensors", kind))
            .has_value());
}

}  // namespace
}  // namespace quantsparse::format::test
