// mp4 with H.264 and webm with VP9 (or VP8), through libavcodec and libavformat.
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <exception>

#include "output_file.hpp"
#include "quantsparse/error.hpp"
#include "writers.hpp"

namespace quantsparse::video {
namespace {

constexpr int kIoBufferBytes = 1 << 16;

template <auto Free>
struct Freer {
    template <typename T>
    void operator()(T* object) const {
        Free(&object);
    }
};
using CodecPointer = std::unique_ptr<AVCodecContext, Freer<avcodec_free_context>>;
using FramePointer = std::unique_ptr<AVFrame, Freer<av_frame_free>>;
using PacketPointer = std::unique_ptr<AVPacket, Freer<av_packet_free>>;

struct FormatFreer {
    void operator()(AVFormatContext* format) const { avformat_free_context(format); }
};
struct IoFreer {
    void operator()(AVIOContext* io) const {
        av_freep(&io->buffer);
        avio_context_free(&io);
    }
};
struct ScalerFreer {
    void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};

std::string describe(int code) {
    std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
    av_strerror(code, text.data(), text.size());
    return text.data();
}

const AVCodec* find_encoder(Container container) {
    constexpr std::array kMp4 = {"libx264", "libopenh264"};
    constexpr std::array kWebm = {"libvpx-vp9", "libvpx"};
    for (const char* name : container == Container::mp4 ? kMp4 : kWebm) {
        if (const AVCodec* codec = avcodec_find_encoder_by_name(name)) {
            return codec;
        }
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("the installed libavcodec has no {} encoder: use .gif, .y4m or DIR/ "
                            "for pictures",
                            container == Container::mp4 ? "H.264" : "VP9 or VP8"));
}

class LibavWriter final : public VideoWriter {
  public:
    LibavWriter(const std::filesystem::path& path, Container container)
        : codec_(find_encoder(container)), container_(container), file_(path) {
        av_log_set_level(AV_LOG_QUIET);  // failures are reported by return values, in our words
    }

    void begin(const ClipProperties& properties) override {
        if (properties.width % 2 != 0 || properties.height % 2 != 0) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("{}x{}: mp4 and webm need an even width and height",
                                    properties.width, properties.height));
        }
        open_container();
        open_encoder(properties);
        stream_ = avformat_new_stream(format_.get(), nullptr);
        check(stream_ == nullptr ? AVERROR(ENOMEM) : 0, "adding the video stream");
        check(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()), "the stream");
        stream_->time_base = encoder_->time_base;
        stream_->avg_frame_rate = encoder_->framerate;
        av_dict_set(&format_->metadata, "comment", properties.comment.c_str(), 0);
        check(avformat_write_header(format_.get(), nullptr), "writing the header");
        prepare_frame();
    }

    void write_frame(std::span<const std::uint8_t> rgb) override {
        check(av_frame_make_writable(frame_.get()), "preparing a frame");
        const std::array<const std::uint8_t*, 1> source = {rgb.data()};
        const std::array<int, 1> stride = {encoder_->width * 3};
        sws_scale(scaler_.get(), source.data(), stride.data(), 0, encoder_->height, frame_->data,
                  frame_->linesize);
        frame_->pts = next_++;
        encode(frame_.get());
    }

    void finish() override {
        encode(nullptr);
        check(av_write_trailer(format_.get()), "writing the trailer");
        avio_flush(io_.get());
        check(io_->error, "writing");
        file_.finish();
    }

  private:
    // libav calls back for every write, so that the file's own errors and its atomic rename hold.
    static int on_write(void* self, std::uint8_t* bytes, int count) {
        return static_cast<LibavWriter*>(self)->guarded([&](OutputFile& file) {
            file.write(std::span(bytes, static_cast<std::size_t>(count)));
            return std::int64_t{count};
        });
    }

    static std::int64_t on_seek(void* self, std::int64_t offset, int whence) {
        return static_cast<LibavWriter*>(self)->guarded([&](OutputFile& file) -> std::int64_t {
            if (whence == AVSEEK_SIZE) {
                return static_cast<std::int64_t>(file.size());
            }
            if (whence != SEEK_SET) {
                return AVERROR(EINVAL);
            }
            file.seek(static_cast<std::uint64_t>(offset));
            return offset;
        });
    }

    // Exceptions don't cross C: the first one is kept for check() to throw again.
    template <typename Action>
    std::int64_t guarded(const Action& action) {
        try {
            return action(file_);
        } catch (...) {
            if (!failure_) {
                failure_ = std::current_exception();
            }
            return AVERROR(EIO);
        }
    }

    void check(int code, const char* what) const {
        if (failure_) {
            std::rethrow_exception(failure_);
        }
        if (code < 0) {
            throw Error(ErrorCode::io,
                        fmt::format("'{}': {} failed: {}", file_.destination().string(), what,
                                    describe(code)));
        }
    }

    void open_container() {
        AVFormatContext* format = nullptr;
        check(avformat_alloc_output_context2(
                  &format, nullptr, container_ == Container::mp4 ? "mp4" : "webm", nullptr),
              "opening the container");
        format_.reset(format);
        auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBufferBytes));
        io_.reset(avio_alloc_context(
            buffer, kIoBufferBytes, 1, this, nullptr,
            [](void* self, std::uint8_t* bytes, int count) { return on_write(self, bytes, count); },
            on_seek));
        check(io_ == nullptr ? AVERROR(ENOMEM) : 0, "opening the container");
        format_->pb = io_.get();
        format_->flags |= AVFMT_FLAG_BITEXACT;  // no library version or date: reproducible files
    }

    void open_encoder(const ClipProperties& properties) {
        encoder_.reset(avcodec_alloc_context3(codec_));
        check(encoder_ == nullptr ? AVERROR(ENOMEM) : 0, "opening the encoder");
        encoder_->width = properties.width;
        encoder_->height = properties.height;
        encoder_->pix_fmt = AV_PIX_FMT_YUV420P;
        encoder_->framerate = {static_cast<int>(properties.fps.numerator),
                               static_cast<int>(properties.fps.denominator)};
        encoder_->time_base = av_inv_q(encoder_->framerate);
        encoder_->color_range = AVCOL_RANGE_MPEG;
        encoder_->colorspace = AVCOL_SPC_BT709;
        encoder_->color_primaries = AVCOL_PRI_BT709;
        encoder_->color_trc = AVCOL_TRC_BT709;
        if (format_->oformat->flags & AVFMT_GLOBALHEADER) {
            encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
        }
        // Defaults that look transparent on flat, synthetic pictures too.
        const bool h264 = container_ == Container::mp4;
        const int crf = properties.crf >= 0 ? properties.crf : h264 ? 17 : 24;
        av_opt_set_int(encoder_->priv_data, "crf", crf, 0);
        if (h264) {
            av_opt_set(encoder_->priv_data, "preset", "medium", 0);
        } else {
            encoder_->bit_rate = 0;  // constant quality
            av_opt_set(encoder_->priv_data, "deadline", "good", 0);
            av_opt_set_int(encoder_->priv_data, "cpu-used", 4, 0);
            av_opt_set_int(encoder_->priv_data, "row-mt", 1, 0);
        }
        check(avcodec_open2(encoder_.get(), codec_, nullptr), "opening the encoder");
    }

    void prepare_frame() {
        frame_.reset(av_frame_alloc());
        packet_.reset(av_packet_alloc());
        check(frame_ == nullptr || packet_ == nullptr ? AVERROR(ENOMEM) : 0, "preparing a frame");
        frame_->format = encoder_->pix_fmt;
        frame_->width = encoder_->width;
        frame_->height = encoder_->height;
        check(av_frame_get_buffer(frame_.get(), 0), "preparing a frame");
        scaler_.reset(sws_getContext(encoder_->width, encoder_->height, AV_PIX_FMT_RGB24,
                                     encoder_->width, encoder_->height, encoder_->pix_fmt,
                                     SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, nullptr,
                                     nullptr, nullptr));
        check(scaler_ == nullptr ? AVERROR(ENOMEM) : 0, "preparing the colour conversion");
        const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
        sws_setColorspaceDetails(scaler_.get(), bt709, 1, bt709, 0, 0, 1 << 16, 1 << 16);
    }

    void encode(const AVFrame* frame) {
        check(avcodec_send_frame(encoder_.get(), frame), "encoding");
        for (;;) {
            const int code = avcodec_receive_packet(encoder_.get(), packet_.get());
            if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) {
                break;
            }
            check(code, "encoding");
            packet_->duration = 1;
            av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
            packet_->stream_index = stream_->index;
            check(av_interleaved_write_frame(format_.get(), packet_.get()), "writing");
        }
        check(io_->error, "writing");
    }

    const AVCodec* codec_;
    Container container_;
    OutputFile file_;
    std::exception_ptr failure_;
    std::unique_ptr<AVIOContext, IoFreer> io_;
    std::unique_ptr<AVFormatContext, FormatFreer> format_;  // after io_: freed first
    CodecPointer encoder_;
    FramePointer frame_;
    PacketPointer packet_;
    std::unique_ptr<SwsContext, ScalerFreer> scaler_;
    AVStream* stream_ = nullptr;  // owned by format_
    std::int64_t next_ = 0;       // frame number
};

}  // namespace

std::unique_ptr<VideoWriter> make_libav_writer(const std::filesystem::path& path,
                                               Container container) {
    return std::make_unique<LibavWriter>(path, container);
}

}  // namespace quantsparse::video
