#include "calib/prompt_tokens.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

#include "calib/tokenizer_module.hpp"
#include "quantsparse/error.hpp"

// Makes the module prefer its own libraries' symbols; only glibc has it, and only glibc needs it.
#ifndef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0
#endif

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;
using EncodePrompt = decltype(&quantsparse_encode_prompt);

/// Beside the executable (installed: in ../lib), else where it was built. Stays loaded.
EncodePrompt load_module() {
    std::error_code ignored;
    const auto folder = fs::read_symlink("/proc/self/exe", ignored).parent_path();
    const fs::path built = QUANTSPARSE_TOKENIZER_MODULE;
    for (const auto& path :
         {folder / built.filename(), folder / "../lib" / built.filename(), built}) {
        if (!fs::exists(path, ignored)) {
            continue;
        }
        void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
        if (module == nullptr) {
            throw Error(ErrorCode::io, fmt::format("can't load the tokenizer '{}': {}",
                                                   path.string(), ::dlerror()));
        }
        if (void* symbol = ::dlsym(module, "quantsparse_encode_prompt")) {
            return reinterpret_cast<EncodePrompt>(symbol);
        }
    }
    throw Error(ErrorCode::io,
                fmt::format("the tokenizer module '{}' is neither beside this program "
                            "nor in ../lib; install it again",
                            built.filename().string()));
}

}  // namespace

std::vector<std::vector<int>> tokenize_prompts(std::span<const std::byte> sentencepiece_model,
                                               const std::vector<std::string>& prompts,
                                               int text_len) {
    static const EncodePrompt encode = load_module();
    std::vector<std::vector<int>> result;
    for (const auto& prompt : prompts) {
        std::vector<int> ids(static_cast<std::size_t>(text_len));
        int code = 0;
        char message[512] = "";
        const int count =
            encode(sentencepiece_model.data(), sentencepiece_model.size(), prompt.data(),
                   prompt.size(), text_len, ids.data(), &code, message, sizeof message);
        if (count < 0) {
            throw Error(static_cast<ErrorCode>(code), message);
        }
        ids.resize(static_cast<std::size_t>(count));
        result.push_back(std::move(ids));
    }
    return result;
}

}  // namespace quantsparse::calib
