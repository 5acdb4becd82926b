// A text for tests: Genesis 1 and Revelation 22 (King James Version, public domain), 8 KB.
#pragma once

#include <string_view>

namespace quest::testing {

inline constexpr std::string_view kSampleText =
    R"(Ge1:1 In the beginning God created the heaven and the earth.
Ge1:2 And the earth was without form, and void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters.
Ge1:3 And God said, Let there be light: and there was light.
Ge1:4 And God saw the light, that it was good: and God divided the light from the darkness.
Ge1:5 And God called the light Day, and the darkness he called Night. And the evening and the morning were the first day.
Ge1:6 And God said, Let there be a firmament in the midst of the waters, and let it divide the waters from the waters.
Ge1:7 And God made the firmament, and divided the waters which were under the firmament from the waters which were above the firmament: and it was so.
Ge1:8 And God called the firmament Heaven. And the evening and the morning were the second day.
Ge1:9 And God said, Let the waters under the heaven be gathered together unto one place, and let the dry land appear: and it was so.
Ge1:10 And God called the dry land Earth; and the gathering together of the waters called he Seas: and God saw that it was good.
Ge1:11 And God said, Let the earth bring forth grass, the herb yielding seed, and the fruit tree yielding fruit after his kind, whose seed is in itself, upon the earth: and it was so.
Ge1:12 And the earth brought forth grass, and herb yielding seed after his kind, and the tree yielding fruit, whose seed was in itself, after his kind: and God saw that it was good.
Ge1:13 And the evening and the morning were the third day.
Ge1:14 And God said, Let there be lights in the firmament of the heaven to divide the day from the night; and let them be for signs, and for seasons, and for days, and years:
Ge1:15 And let them be for lights in the firmament of the heaven to give light upon the earth: and it was so.
Ge1:16 And God made two great lights; the greater light to rule the day, and the lesser light to rule the night: he made the stars also.
Ge1:17 And God set them in the firmament of the heaven to give light upon the earth,
Ge1:18 And to rule over the day and over the night, and to divide the light from the darkness: and God saw that it was good.
Ge1:19 And the evening and the morning were the fourth day.
Ge1:20 And God said, Let the waters bring forth abundantly the moving creature that hath life, and fowl that may fly above the earth in the open firmament of heaven.
Ge1:21 And God created great whales, and every living creature that moveth, which the waters brought forth abundantly, after their kind, and every winged fowl after his kind: and God saw that it was good.
Ge1:22 And God blessed them, saying, Be fruitful, and multiply, and fill the waters in the seas, and let fowl multiply in the earth.
Ge1:23 And the evening and the morning were the fifth day.
Ge1:24 And God said, Let the earth bring forth the living creature after his kind, cattle, and creeping thing, and beast of the earth after his kind: and it was so.
Ge1:25 And God made the beast of the earth after his kind, and cattle after their kind, and every thing that creepeth upon the earth after his kind: and God saw that it was good.
Ge1:26 And God said, Let us make man in our image, after our likeness: and let them have dominion over the fish of the sea, and over the fowl of the air, and over the cattle, and over all the earth, and over every creeping thing that creepeth upon the earth.
Ge1:27 So God created man in his own image, in the image of God created he him; male and female created he them.
Ge1:28 And God blessed them, and God said unto them, Be fruitful, and multiply, and replenish the earth, and subdue it: and have dominion over the fish of the sea, and over the fowl of the air, and over every living thing that moveth upon the earth.
Ge1:29 And God said, Behold, I have given you every herb bearing seed, which is upon the face of all the earth, and every tree, in the which is the fruit of a tree yielding seed; to you it shall be for meat.
Ge1:30 And to every beast of the earth, and to every fowl of the air, and to every thing that creepeth upon the earth, wherein there is life, I have given every green herb for meat: and it was so.
Ge1:31 And God saw every thing that he had made, and, behold, it was very good. And the evening and the morning were the sixth day.
Rev22:1 And he shewed me a pure river of water of life, clear as crystal, proceeding out of the throne of God and of the Lamb.
Rev22:2 In the midst of the street of it, and on either side of the river, was there the tree of life, which bare twelve manner of fruits, and yielded her fruit every month: and the leaves of the tree were for the healing of the nations.
Rev22:3 And there shall be no more curse: but the throne of God and of the Lamb shall be in it; and his servants shall serve him:
Rev22:4 And they shall see his face; and his name shall be in their foreheads.
Rev22:5 And there shall be no night there; and they need no candle, neither light of the sun; for the Lord God giveth them light: and they shall reign for ever and ever.
Rev22:6 And he said unto me, These sayings are faithful and true: and the Lord God of the holy prophets sent his angel to shew unto his servants the things which must shortly be done.
Rev22:7 Behold, I come quickly: blessed is he that keepeth the sayings of the prophecy of this book.
Rev22:8 And I John saw these things, and heard them. And when I had heard and seen, I fell down to worship before the feet of the angel which shewed me these things.
Rev22:9 Then saith he unto me, See thou do it not: for I am thy fellowservant, and of thy brethren the prophets, and of them which keep the sayings of this book: worship God.
Rev22:10 And he saith unto me, Seal not the sayings of the prophecy of this book: for the time is at hand.
Rev22:11 He that is unjust, let him be unjust still: and he which is filthy, let him be filthy still: and he that is righteous, let him be righteous still: and he that is holy, let him be holy still.
Rev22:12 And, behold, I come quickly; and my reward is with me, to give every man according as his work shall be.
Rev22:13 I am Alpha and Omega, the beginning and the end, the first and the last.
Rev22:14 Blessed are they that do his commandments, that they may have right to the tree of life, and may enter in through the gates into the city.
Rev22:15 For without are dogs, and sorcerers, and whoremongers, and murderers, and idolaters, and whosoever loveth and maketh a lie.
Rev22:16 I Jesus have sent mine angel to testify unto you these things in the churches. I am the root and the offspring of David, and the bright and morning star.
Rev22:17 And the Spirit and the bride say, Come. And let him that heareth say, Come. And let him that is athirst come. And whosoever will, let him take the water of life freely.
Rev22:18 For I testify unto every man that heareth the words of the prophecy of this book, If any man shall add unto these things, God shall add unto him the plagues that are written in this book:
Rev22:19 And if any man shall take away from the words of the book of this prophecy, God shall take away his part out of the book of life, and out of the holy city, and from the things which are written in this book.
Rev22:20 He which testifieth these things saith, Surely I come quickly. Amen. Even so, come, Lord Jesus.
Rev22:21 The grace of our Lord Jesus Christ be with you all. Amen.
)";

}  // namespace quest::testing
