#include "quest/kernels/deploy_body.h"
#include "quest/kernels/x86/lanes_avx2.h"

namespace quest::kernels::detail {

const DeployLevel& deploy_avx2() { return DeployTable<avx2::Lanes>::kLevel; }

}  // namespace quest::kernels::detail
