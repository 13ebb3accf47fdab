// 3-D convolution over frame-major pictures, the workhorse of the Wan VAE:
//
//   out[f, o, y, x] = bias[o] + residual[f, o, y, x]
//       + sum_{kt, ky, kx, c} in[frame_stride*f + kt, c, (y*stride - pad_y + ky) >> up, ...] * w[...]
//
//   in      fp32 [frames + history, in_channels, in_height, in_width]; in time the caller supplies the
//           (causal) history, in space zeros are assumed outside (pad_y, pad_x before; more after)
//   weights fp32 [kt, ky, kx, in_channels, out_channels padded to 8]
//   out     fp32 [frames, out_channels, out_height, out_width]
//
// up = 1 reads a nearest-neighbour 2x enlarged picture without ever making it. One invocation computes
// kPixels pixels of a row, spaced by the work-group's width, by 8 output channels; weights are read at
// uniform addresses. Group x: spans of pixels of one frame, group y: groups of 8 channels, group z: frames.
// out_index_* let one convolution write interleaved frames (the VAE's temporal upsampler).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 1) const uint kPixels = 4;
layout(constant_id = 2) const uint kHasResidual = 0;

layout(set = 0, binding = 0, std430) readonly buffer In { float in_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer Weights { vec4 weights[]; };
layout(set = 0, binding = 2, std430) readonly buffer Bias { vec4 bias_values[]; };
layout(set = 0, binding = 3, std430) readonly buffer Residual { float residual_values[]; };
layout(set = 0, binding = 4, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint in_channels;
    uint out_channels;
    uint in_height;
    uint in_width;
    uint out_height;
    uint out_width;
    uint kernel_t;
    uint kernel_y;
    uint kernel_x;
    uint stride;        // in space
    uint frame_stride;  // in time
    uint pad_y;
    uint pad_x;
    uint up;            // log2 of the enlargement read through
    uint split_frames;  // 1: channels [C/2, C) are the odd frames of a clip of C/2 channels
} p;

void main() {
    const uint lanes = gl_WorkGroupSize.x;
    const uint pixel0 = gl_WorkGroupID.x * lanes * kPixels + gl_LocalInvocationID.x;
    const uint channel0 = gl_WorkGroupID.y * 8;
    const uint frame = gl_WorkGroupID.z;
    const uint pixels = p.out_height * p.out_width;
    const uint in_plane = p.in_height * p.in_width;
    const uint channels4 = (p.out_channels + 7) / 8 * 2;
    const int virtual_height = int(p.in_height << p.up);
    const int virtual_width = int(p.in_width << p.up);

    vec4 low[kPixels];
    vec4 high[kPixels];
    int y0[kPixels];
    int x0[kPixels];
    [[unroll]] for (uint i = 0; i < kPixels; ++i) {
        low[i] = bias_values[channel0 / 4];
        high[i] = bias_values[channel0 / 4 + 1];
        const uint pixel = min(pixel0 + i * lanes, pixels - 1);
        y0[i] = int((pixel / p.out_width) * p.stride) - int(p.pad_y);
        x0[i] = int((pixel % p.out_width) * p.stride) - int(p.pad_x);
    }

    for (uint kt = 0; kt < p.kernel_t; ++kt) {
        const uint in_frame = (frame * p.frame_stride + kt) * p.in_channels * in_plane;
        for (uint ky = 0; ky < p.kernel_y; ++ky) {
            for (uint kx = 0; kx < p.kernel_x; ++kx) {
                uint offset[kPixels];
                float inside[kPixels];
                [[unroll]] for (uint i = 0; i < kPixels; ++i) {
                    const int y = y0[i] + int(ky);
                    const int x = x0[i] + int(kx);
                    const bool in_picture =
                        y >= 0 && y < virtual_height && x >= 0 && x < virtual_width;
                    inside[i] = in_picture ? 1.0 : 0.0;
                    offset[i] = in_picture
                        ? in_frame + (uint(y) >> p.up) * p.in_width + (uint(x) >> p.up) : in_frame;
                }
                uint w = (((kt * p.kernel_y + ky) * p.kernel_x + kx) * p.in_channels) * channels4 +
                         channel0 / 4;
                for (uint c = 0; c < p.in_channels; ++c) {
                    const vec4 w_low = weights[w];
                    const vec4 w_high = weights[w + 1];
                    [[unroll]] for (uint i = 0; i < kPixels; ++i) {
                        const float x = in_values[offset[i] + c * in_plane] * inside[i];
                        low[i] += x * w_low;
                        high[i] += x * w_high;
                    }
                    w += channels4;
                }
            }
        }
    }

    [[unroll]] for (uint i = 0; i < kPixels; ++i) {
        const uint pixel = pixel0 + i * lanes;
        if (pixel < pixels) {
            for (uint o = 0; o < 8; ++o) {
                const uint channel = channel0 + o;
                if (channel < p.out_channels) {
                    float value = o < 4 ? low[i][o] : high[i][o - 4];
                    uint target = (frame * p.out_channels + channel) * pixels + pixel;
                    if (p.split_frames != 0) {
                        const uint half_channels = p.out_channels / 2;
                        const uint odd = channel / half_channels;
                        target = ((2 * frame + odd) * half_channels + channel % half_channels) *
                                     pixels + pixel;
                    }
                    if (kHasResidual != 0) value += residual_values[target];
                    out_values[target] = value;
                }
            }
        }
    }
}
