#include "models/mask_file.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>

#include "format/safetensors.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {
namespace {

class Reader {
  public:
    Reader(const std::filesystem::path& path, const MaskShape& shape)
        : file_(path), shape_(shape) {}

    MaskFile read() {
        MaskFile mask;
        mask.block = number("block");
        if (mask.block != 32 && mask.block != 64 && mask.block != 128) {
            fail(fmt::format("has blocks of {} tokens: choose 32, 64 or 128", mask.block));
        }
        if (const int tokens = number("tokens"); tokens != shape_.tokens) {
            fail(fmt::format("is for clips of {} tokens, this one has {}: make one for this size",
                             tokens, shape_.tokens));
        }
        blocks_ = (shape_.tokens + mask.block - 1) / mask.block;
        std::size_t known = 0;
        for (int layer = 0; layer < shape_.layers; ++layer) {
            const auto found = file_.tensors().find(fmt::format("blocks.{}.self_attn.mask", layer));
            const bool dense = layer < shape_.dense_layers;
            if (found == file_.tensors().end()) {
                if (dense) continue;
                fail(fmt::format("lacks blocks.{}.self_attn.mask", layer));
            }
            if (dense) {
                fail(fmt::format("has a mask for layer {}, but {} layers are dense: choose fewer",
                                 layer, shape_.dense_layers));
            }
            mask.choices.push_back(choice(found->second, mask.most));
            ++known;
        }
        if (known != file_.tensors().size()) {
            fail(fmt::format("holds {} tensors that are no masks of the transformer's {} layers",
                             file_.tensors().size() - known, shape_.layers));
        }
        return mask;
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Error(ErrorCode::bad_file, fmt::format("'{}' {}", file_.path().string(), what),
                    "mask_file");
    }

    int number(const char* key) const {
        const auto found = file_.metadata().find(key);
        int value = 0;
        if (found != file_.metadata().end()) {
            const std::string& text = found->second;
            const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
            if (read.ec == std::errc{} && read.ptr == text.data() + text.size()) return value;
        }
        fail(fmt::format("says no whole number '{}' in its metadata", key));
    }

    /// [heads, blocks, blocks] of 0 and 1, or [1, blocks, blocks] for all heads, as bits.
    std::vector<std::uint32_t> choice(const format::TensorView& view, int& most) const {
        const std::vector<std::int64_t> one = {1, blocks_, blocks_},
                                        all = {shape_.heads, blocks_, blocks_};
        if ((view.dtype != format::DType::u8 && view.dtype != format::DType::boolean) ||
            (view.shape != one && view.shape != all)) {
            fail(fmt::format("has {} as {} {} where U8 {} is needed, or a 1 for all heads",
                             format::printable(view.name), format::name_of(view.dtype),
                             format::shape_text(view.shape), format::shape_text(all)));
        }
        const auto blocks = static_cast<std::size_t>(blocks_), words = (blocks + 31) / 32;
        const auto rows = static_cast<std::size_t>(shape_.heads) * blocks;
        std::vector<std::uint32_t> bits(rows * words, 0);
        for (std::size_t row = 0; row < rows; ++row) {
            const std::size_t from = view.shape == one ? row % blocks : row;
            int count = 0;
            for (std::size_t j = 0; j < blocks; ++j) {
                const auto value = static_cast<unsigned>(view.bytes[from * blocks + j]);
                if (value > 1) {
                    fail(fmt::format("has the value {} in {}: 1 is computed, 0 is not", value,
                                     format::printable(view.name)));
                }
                bits[row * words + j / 32] |= value << j % 32;
                count += static_cast<int>(value);
            }
            if (count == 0) {
                fail(fmt::format("leaves the queries of block {} of head {} without a key in {}",
                                 row % blocks, row / blocks, format::printable(view.name)));
            }
            most = std::max(most, count);
        }
        return bits;
    }

    format::SafetensorsFile file_;
    MaskShape shape_;
    int blocks_ = 0;
};

}  // namespace

MaskFile read_mask_file(const std::filesystem::path& path, const MaskShape& shape) {
    return Reader(path, shape).read();
}

}  // namespace quantsparse::models
