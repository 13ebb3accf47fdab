// The fuzz harness as an ordinary test: a fixed number of mutations of valid files, always the
// same. Crashes and sanitizer reports fail it; exceptions other than quantsparse::Error do too.
#include <gtest/gtest.h>

#include <random>

#include "format/safetensors.hpp"
#include "fuzz/safetensors_fuzzer.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

std::vector<std::string> seeds() {
    const auto data = std::string(64, '\x3F');
    return {
        safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},)"
                          R"("b":{"dtype":"BF16","shape":[16],"data_offsets":[32,64]}})",
                          data),
        safetensors_bytes(
            R"({"__metadata__":{"format":"quantsparse","version":"1","architecture":"wan2.1-t2v",)"
            R"("config":"{\"transformer\":{\"dim\":64,\"num_heads\":2}}","quantization":"{}"},)"
            R"("transformer.x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
            data),
        safetensors_bytes(R"({"decoder.up_blocks.0.resnets.0.conv1.weight":)"
                          R"({"dtype":"F8_E4M3","shape":[64],"data_offsets":[0,64]}})",
                          data),
        safetensors_bytes(
            R"({"__metadata__":{"lora_adapter_metadata":"{\"transformer.lora_alpha\":2}"},)"
            R"("transformer.a.lora_A.weight":{"dtype":"F16","shape":[2,4],"data_offsets":[0,16]},)"
            R"("transformer.a.lora_B.weight":{"dtype":"F16","shape":[4,2],"data_offsets":[16,32]},)"
            R"("transformer.a.alpha":{"dtype":"F32","shape":[],"data_offsets":[32,36]},)"
            R"("transformer.a.diff_m":{"dtype":"F16","shape":[4],"data_offsets":[36,44]}})",
            data.substr(0, 44)),
        safetensors_bytes(R"({"encoder.block.0.layer.0.SelfAttention.q.weight":)"
                          R"({"dtype":"I64","shape":[2,2,2],"data_offsets":[0,64]}})",
                          data)};
}

/// Bytes, numbers and structure: flips, digits replaced, pieces removed, doubled or cut off.
void mutate(std::string& bytes, std::mt19937& random) {
    const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
    const std::size_t position = below(bytes.size());
    const std::size_t length = below(std::min<std::size_t>(16, bytes.size() - position)) + 1;
    switch (below(6)) {
        case 0:
            bytes[position] = static_cast<char>(random());
            break;
        case 1: {
            constexpr std::string_view kPieces = "0123456789{}[]\",:-.eE\\";
            bytes[position] = kPieces[below(kPieces.size())];
            break;
        }
        case 2:
            bytes.erase(position, length);
            break;
        case 3:
            bytes.insert(position, bytes.substr(position, length));
            break;
        case 4:
            bytes.resize(position);
            break;
        default:
            bytes.insert(position, "18446744073709551615");
            break;
    }
}

TEST(SafetensorsMutation, EveryMutationIsReadOrRefused) {
    std::mt19937 random(20240611);
    const auto originals = seeds();
    for (int round = 0; round < 6000; ++round) {
        std::string bytes = originals[random() % originals.size()];
        const auto count = random() % 4 + 1;
        for (unsigned i = 0; i < count && !bytes.empty(); ++i) {
            mutate(bytes, random);
        }
        if (random() % 2 == 0 && bytes.size() > 8) {
            // Repair the header length, so that the mutations reach the parser.
            const auto end = bytes.rfind('}');
            const std::uint64_t header = end == std::string::npos || end < 8 ? 0 : end - 7;
            for (std::size_t i = 0; i < 8; ++i) {
                bytes[i] = static_cast<char>(header >> (8 * i) & 0xFF);
            }
        }
        ASSERT_NO_THROW(LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                               bytes.size()))
            << "round " << round;
    }
}

}  // namespace
}  // namespace quantsparse::format::test
