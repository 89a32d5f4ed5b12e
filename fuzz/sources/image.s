# What is around `payload`: an x86 bzImage (Documentation/arch/x86/boot.rst) or, with ZBOOT, an EFI zboot
# image (drivers/firmware/efi/libstub/zboot-header.S).
begin:
.if ZBOOT
	.ascii "MZ\0\0zimg"
	.long payload - begin, end - payload, 0, 0
	.asciz "gzip"
.else
	.org 0x1f1
	.byte 1
	.org 0x202
	.ascii "HdrS"
	.short 0x20f
	.org 0x20e
	.short release - begin - 0x200
	.org 0x248
	.long payload - begin - 0x400, end - payload
	.org 0x260
release:
	.asciz "6.1.0-56-cloud-amd64 (a@b) #1"
	.org 0x400
.endif
payload:
	.incbin "payload"
end:
	.long 0
