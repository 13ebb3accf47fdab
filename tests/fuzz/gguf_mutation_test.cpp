// The fuzz harness on GGUF files: a fixed number of mutations of valid ones, always the same.
#include <gtest/gtest.h>

#include <random>

#include "fuzz/safetensors_fuzzer.hpp"
#include "unit/gguf_support.hpp"

namespace quantsparse::format::test {
namespace {

std::vector<std::string> seeds() {
    const std::string data(512, '\x3F');
    GgufBuilder transformer;
    transformer.string("general.architecture", "wan")
        .number("general.alignment", 32)
        .tensor("patch_embedding.weight", {2, 2, 1, 1, 3}, 0, data.substr(0, 48))
        .tensor("blocks.0.modulation", {8, 6}, 0, data.substr(0, 192))
        .tensor("blocks.0.self_attn.q.weight", {256, 2}, 12, data.substr(0, 288))
        .tensor("blocks.0.ffn.2.weight", {256}, 14, data.substr(0, 210));
    GgufBuilder encoder;
    encoder.string("general.architecture", "t5encoder")
        .string("tokenizer.ggml.model", "t5")
        .strings("tokenizer.ggml.tokens", {"<pad>", "</s>", "<unk>", "a"})
        .numbers<float>("tokenizer.ggml.scores", GgufBuilder::f32, {0, 0, 0, -1})
        .numbers<std::int32_t>("tokenizer.ggml.token_type", GgufBuilder::i32, {3, 3, 2, 1})
        .array("tokenizer.ggml.precompiled_charsmap", GgufBuilder::u8, 4, "abcd")
        .flag("tokenizer.ggml.add_space_prefix", true)
        .tensor("token_embd.weight", {32, 4}, 8, data.substr(0, 136))
        .tensor("enc.blk.0.attn_rel_b.weight", {4, 32}, 1, data.substr(0, 256));
    return {transformer.bytes(), encoder.bytes(2)};
}

/// Bytes, numbers and structure: flips, counts and lengths replaced by extreme ones, pieces
/// removed, doubled or cut off.
void mutate(std::string& bytes, std::mt19937& random) {
    const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
    constexpr std::uint64_t kNumbers[] = {
        0, 1, 5, 31, 32, 255, 256, 1U << 20, 1ULL << 32, 1ULL << 40, 1ULL << 62, 1ULL << 63, ~0ULL};
    const std::size_t position = below(bytes.size());
    const std::size_t length = below(std::min<std::size_t>(16, bytes.size() - position)) + 1;
    switch (below(6)) {
        case 0:
            bytes[position] = static_cast<char>(random());
            break;
        case 1:
            bytes[position] = static_cast<char>(below(32));  // types and small counts
            break;
        case 2:
            bytes.erase(position, length);
            break;
        case 3:
            bytes.insert(position, bytes.substr(position, length));
            break;
        case 4:
            bytes.resize(position);
            break;
        default: {
            const auto number = little_endian(kNumbers[below(std::size(kNumbers))]);
            bytes.replace(position, std::min(number.size(), bytes.size() - position), number);
            break;
        }
    }
}

TEST(GgufMutation, EveryMutationIsReadOrRefused) {
    std::mt19937 random(20240612);
    const auto originals = seeds();
    for (int round = 0; round < 6000; ++round) {
        std::string bytes = originals[random() % originals.size()];
        const auto count = random() % 3 + 1;
        for (unsigned i = 0; i < count && !bytes.empty(); ++i) {
            mutate(bytes, random);
        }
        ASSERT_NO_THROW(LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                               bytes.size()))
            << "round " << round;
    }
}

}  // namespace
}  // namespace quantsparse::format::test
