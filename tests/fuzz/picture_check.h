// What every picture of others must survive, whatever its format.
#ifndef VLM_TESTS_FUZZ_PICTURE_CHECK_H_
#define VLM_TESTS_FUZZ_PICTURE_CHECK_H_

#include <string>

namespace vlm::fuzz {

// Header, pixels (as stored and turned by EXIF), and the data path's way to floats. Pictures above a million pixels are
// refused, so that an input takes milliseconds.
void CheckPicture(const std::string& encoded);

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_PICTURE_CHECK_H_
