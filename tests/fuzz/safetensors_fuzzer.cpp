// Feeds arbitrary bytes to the readers of safetensors and GGUF: they must either open the file and
// hand out tensors that can be read to the last byte, or throw quantsparse::Error. Built alone with
//     clang++ -fsanitize=fuzzer,address,undefined
// or linked into the mutation tests with any compiler.
#include "fuzz/safetensors_fuzzer.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "format/adapter.hpp"
#include "format/gguf_tokenizer.hpp"
#include "format/model_bundle.hpp"
#include "format/networks/registry.hpp"
#include "quantsparse/error.hpp"

namespace {

using namespace quantsparse::format;

void read_everything(const TensorSource& file) {
    if (const auto* gguf = dynamic_cast<const GgufFile*>(&file)) {
        try {
            gguf_tokenizer(*gguf);
        } catch (const quantsparse::Error&) {
        }
    }
    for (const auto& [name, view] : file.tensors()) {
        try {
            to_float(view);
        } catch (const quantsparse::Error&) {
            // Integers are no floats: to be refused, not read.
        }
        try {
            to_int32(view);
        } catch (const quantsparse::Error&) {
        }
    }
}

/// As an adapter of a network that has the modules of the seeds.
void merge(const std::filesystem::path& path) {
    Network network;
    network.kind = "wan-dit";
    network.tensors = {{"a.weight", {4, 4}}, {"a.bias", {4}}, {"a.modulation", {1, 4}}};
    const AdapterFile file(path);
    for (const ExpertPlace expert : {ExpertPlace{0, 1}, ExpertPlace{1, 2}}) {
        for (const auto& [name, change] : file.changes_for(network, expert).tensors) {
            for (const auto& term : change.low_rank) {
                if (to_float(term.up).size() != static_cast<std::size_t>(4 * term.rank()) ||
                    to_float(term.down).size() != static_cast<std::size_t>(4 * term.rank())) {
                    throw std::logic_error("a pair that does not fit has been accepted");
                }
            }
            for (const auto& term : change.differences) to_float(term.values);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto path = std::filesystem::temp_directory_path() /
                             ("quantsparse-fuzz-" + std::to_string(::getpid()) + ".safetensors");
    std::ofstream(path, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    try {
        read_everything(*open_tensor_source(path));
        for (const char* kind : {"wan-dit", "umt5", "wan-vae"}) {
            Checkpoint::open(path, network_kind(kind)).names();
        }
    } catch (const quantsparse::Error&) {
    }
    try {
        merge(path);
    } catch (const quantsparse::Error&) {
    }
    try {
        open_model(path);
    } catch (const quantsparse::Error&) {
    }
    std::filesystem::remove(path);
    return 0;
}
