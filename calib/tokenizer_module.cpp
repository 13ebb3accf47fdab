#include "calib/tokenizer_module.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "format/tokenizer.hpp"
#include "quantsparse/error.hpp"

extern "C" int quantsparse_encode_prompt(const std::byte* model, std::size_t model_size,
                                         const char* prompt, std::size_t prompt_size, int text_len,
                                         int* ids, int* error_code, char* message,
                                         std::size_t message_size) {
    const auto fail = [&](quantsparse::ErrorCode code, std::string_view text) {
        *error_code = static_cast<int>(code);
        const auto length = std::min(text.size(), message_size - 1);
        std::memcpy(message, text.data(), length);
        message[length] = '\0';
        return -1;
    };
    try {
        const quantsparse::format::Tokenizer tokenizer({model, model_size});
        const auto tokens = tokenizer.encode({prompt, prompt_size}, text_len);
        std::copy_n(tokens.ids.begin(), tokens.valid_count, ids);
        return tokens.valid_count;
    } catch (const quantsparse::Error& error) {
        return fail(error.code(), error.what());
    } catch (const std::exception& error) {
        return fail(quantsparse::ErrorCode::bad_file, error.what());
    }
}
