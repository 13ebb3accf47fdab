// The C boundary between the calibrator and its tokenizer module.
#pragma once

#include <cstddef>

/// Writes at most `text_len` ids and returns their count; negative: failed, with an ErrorCode in
/// `error_code` and the message in `message` (cut to `message_size`).
extern "C" int quantsparse_encode_prompt(const std::byte* model, std::size_t model_size,
                                         const char* prompt, std::size_t prompt_size, int text_len,
                                         int* ids, int* error_code, char* message,
                                         std::size_t message_size);
