#include "base/digest.h"

#include <gtest/gtest.h>

#include "base/entropy.h"

namespace vlm {
namespace {

// FIPS 180-4 examples.
TEST(Sha256, MatchesThePublishedVectors) {
  EXPECT_EQ(Sha256Of("").Hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Of("abc").Hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").Hex(),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  Sha256 million;
  for (int i = 0; i < 1000; ++i) million.Update(std::string(1000, 'a'));
  EXPECT_EQ(million.Finish().Hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digest, HexRoundTripAndRefusals) {
  const Digest digest = Sha256Of("x");
  EXPECT_EQ(*Digest::FromHex(digest.Hex()), digest);
  std::string hex = digest.Hex();
  EXPECT_FALSE(Digest::FromHex(hex.substr(1)).ok());
  EXPECT_FALSE(Digest::FromHex(hex + "0").ok());
  hex[5] = 'G';
  EXPECT_FALSE(Digest::FromHex(hex).ok());
  hex[5] = 'A';  // one spelling only
  EXPECT_FALSE(Digest::FromHex(hex).ok());
}

TEST(RandomBytes, HasTheLengthAskedForAndNeverRepeats) {
  EXPECT_EQ(RandomBytes(0), "");
  EXPECT_EQ(RandomBytes(300).size(), 300u);
  EXPECT_NE(RandomBytes(16), RandomBytes(16));
}

}  // namespace
}  // namespace vlm
