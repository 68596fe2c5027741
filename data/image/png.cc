#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "data/image/codecs.h"

// libpng reports errors by longjmp. Every function that sets the jump keeps its C++ objects in its caller, so
// that a jump crosses no destructor.
namespace vlm::data {
namespace {

constexpr int kSideMax = 1'000'000;  // libpng's own default limit

struct PngInput {
  std::span<const std::byte> bytes;
  size_t position = 0;
  std::array<char, 160> message{};
};

void ReadFromInput(png_structp png, png_bytep out, png_size_t count) {
  auto* input = static_cast<PngInput*>(png_get_io_ptr(png));
  if (input->bytes.size() - input->position < count) png_error(png, "file is truncated");
  std::memcpy(out, input->bytes.data() + input->position, count);
  input->position += count;
}

void StoreError(png_structp png, png_const_charp message) {
  auto* text = static_cast<std::array<char, 160>*>(png_get_error_ptr(png));
  std::snprintf(text->data(), text->size(), "%s", message);
  png_longjmp(png, 1);
}

void IgnoreWarning(png_structp, png_const_charp) {}

// Owns libpng's two structures.
class PngReader {
 public:
  explicit PngReader(PngInput* input)
      : png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &input->message, StoreError, IgnoreWarning)),
        info_(png_ == nullptr ? nullptr : png_create_info_struct(png_)) {
    if (png_ != nullptr) png_set_read_fn(png_, input, ReadFromInput);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  bool ok() const { return png_ != nullptr && info_ != nullptr; }
  png_structp png() { return png_; }
  png_infop info() { return info_; }

 private:
  png_structp png_;
  png_infop info_;
};

absl::Status Broken(const PngInput& input) {
  return absl::InvalidArgumentError(absl::StrCat("PNG is broken; replace the file: ", input.message.data(),
                                                 ", near byte ", input.position, " of ", input.bytes.size()));
}

bool ReadInfo(PngReader* reader) {
  if (setjmp(png_jmpbuf(reader->png())) != 0) return false;
  png_read_info(reader->png(), reader->info());
  return true;
}

// Pillow's rules for what the stored values become; palettes are looked up by us, see FillRow.
bool PrepareRows(PngReader* reader, size_t* row_bytes, int* passes) {
  png_structp png = reader->png();
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  const int color_type = png_get_color_type(png, reader->info());
  const int bit_depth = png_get_bit_depth(png, reader->info());
  if (color_type == PNG_COLOR_TYPE_PALETTE) {
    png_set_packing(png);
  } else if (color_type == PNG_COLOR_TYPE_GRAY && bit_depth < 8) {
    png_set_expand_gray_1_2_4_to_8(png);
  }
  *passes = png_set_interlace_handling(png);
  png_read_update_info(png, reader->info());
  *row_bytes = png_get_rowbytes(png, reader->info());
  return true;
}

bool ReadRows(PngReader* reader, int passes, std::span<png_bytep> rows) {
  if (setjmp(png_jmpbuf(reader->png())) != 0) return false;
  for (int pass = 0; pass < passes; ++pass) {
    for (const png_bytep row : rows) png_read_row(reader->png(), row, nullptr);
  }
  return true;
}

// How to turn one stored pixel into RGB.
struct PixelForm {
  bool palette = false;
  bool gray = false;
  bool gray16 = false;       // without alpha
  size_t channels = 0;       // stored, alpha included
  size_t channel_bytes = 0;  // 1 or 2
  std::array<std::array<uint8_t, 3>, 256> colors{};
};

PixelForm FormOf(PngReader* reader) {
  PixelForm form;
  png_structp png = reader->png();
  const int color_type = png_get_color_type(png, reader->info());
  form.palette = color_type == PNG_COLOR_TYPE_PALETTE;
  form.gray = (color_type & PNG_COLOR_MASK_COLOR) == 0;
  form.channels = png_get_channels(png, reader->info());
  form.channel_bytes = png_get_bit_depth(png, reader->info()) == 16 ? 2 : 1;
  form.gray16 = color_type == PNG_COLOR_TYPE_GRAY && form.channel_bytes == 2;
  if (!form.palette) return form;
  png_colorp entries = nullptr;
  int count = 0;
  png_get_PLTE(png, reader->info(), &entries, &count);
  for (size_t i = 0; i < form.colors.size(); ++i) {
    // Entries that the file does not define are black, as in Pillow.
    if (i < static_cast<size_t>(count)) form.colors[i] = {entries[i].red, entries[i].green, entries[i].blue};
  }
  return form;
}

void FillRow(const PixelForm& form, const uint8_t* in, std::span<uint8_t> out) {
  const size_t step = form.channels * form.channel_bytes;
  const size_t pixels = out.size() / 3;
  for (size_t x = 0; x < pixels; ++x, in += step) {
    uint8_t* rgb = out.data() + 3 * x;
    if (form.palette) {
      std::copy_n(form.colors[*in].data(), 3, rgb);
    } else if (form.gray16) {
      std::fill_n(rgb, 3, in[0] != 0 ? uint8_t{255} : in[1]);
    } else {
      for (size_t c = 0; c < 3; ++c) rgb[c] = in[form.gray ? 0 : c * form.channel_bytes];
    }
  }
}

int OrientationOf(PngReader* reader) {
  png_uint_32 count = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(reader->png(), reader->info(), &count, &exif) == 0 || exif == nullptr) return 1;
  return OrientationOfExif(std::as_bytes(std::span(exif, count)));
}

struct PngOutput {
  std::string bytes;
  std::array<char, 160> message{};
};

void AppendToOutput(png_structp png, png_bytep bytes, png_size_t count) {
  static_cast<PngOutput*>(png_get_io_ptr(png))->bytes.append(reinterpret_cast<const char*>(bytes), count);
}

void FlushNothing(png_structp) {}

bool WriteRows(png_structp png, png_infop info, const Image& image) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height), 8,
               PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  const size_t row_bytes = 3 * static_cast<size_t>(image.width);
  for (int y = 0; y < image.height; ++y) png_write_row(png, image.rgb.data() + static_cast<size_t>(y) * row_bytes);
  png_write_end(png, info);
  return true;
}

}  // namespace

absl::StatusOr<ImageHeader> ReadPngHeader(std::span<const std::byte> bytes) {
  PngInput input{bytes};
  PngReader reader(&input);
  if (!reader.ok()) return absl::ResourceExhaustedError("libpng could not allocate its state");
  if (!ReadInfo(&reader)) return Broken(input);
  ImageHeader header;
  header.format = ImageFormat::kPng;
  header.width = static_cast<int>(png_get_image_width(reader.png(), reader.info()));
  header.height = static_cast<int>(png_get_image_height(reader.png(), reader.info()));
  header.exif_orientation = OrientationOf(&reader);
  return header;
}

absl::StatusOr<Image> DecodePng(std::span<const std::byte> bytes, const ImageHeader& header) {
  PngInput input{bytes};
  PngReader reader(&input);
  if (!reader.ok()) return absl::ResourceExhaustedError("libpng could not allocate its state");
  size_t row_bytes = 0;
  int passes = 0;
  if (!ReadInfo(&reader) || !PrepareRows(&reader, &row_bytes, &passes)) return Broken(input);
  const auto height = static_cast<size_t>(header.height);
  std::vector<uint8_t> stored(row_bytes * height);
  std::vector<png_bytep> rows(height);
  for (size_t y = 0; y < height; ++y) rows[y] = stored.data() + y * row_bytes;
  if (!ReadRows(&reader, passes, rows)) return Broken(input);
  const PixelForm form = FormOf(&reader);
  Image image{header.width, header.height, {}};
  const size_t out_row_bytes = 3 * static_cast<size_t>(header.width);
  image.rgb.resize(out_row_bytes * height);
  for (size_t y = 0; y < height; ++y) {
    FillRow(form, rows[y], std::span(image.rgb).subspan(y * out_row_bytes, out_row_bytes));
  }
  return image;
}

absl::StatusOr<std::string> EncodePng(const Image& image) {
  if (image.width < 1 || image.height < 1 || image.width > kSideMax || image.height > kSideMax ||
      image.rgb.size() != size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height)) {
    return absl::InvalidArgumentError(absl::StrCat("PNG needs a picture with sides of 1 to 1000000: ", image.width,
                                                   " x ", image.height, ", bytes ", image.rgb.size()));
  }
  PngOutput output;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &output.message, StoreError, IgnoreWarning);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool written = false;
  if (info != nullptr) {
    png_set_write_fn(png, &output, AppendToOutput, FlushNothing);
    written = WriteRows(png, info, image);
  }
  png_destroy_write_struct(&png, &info);
  if (!written) return absl::InternalError(absl::StrCat("PNG could not be written: ", output.message.data()));
  return std::move(output.bytes);
}

}  // namespace vlm::data
