# A guest in one boot sector, for tests: it boots in a tenth of a second, without an operating system.
# It prints "ready" on the first serial port, and what is typed comes back, except that
#   q powers off    r resets    w writes "written" to the disk's second sector, and prints "ok"
#   c prints that sector's first seven bytes    f prints without end
# The power button powers it off, after "button".
#
# To make guest.bin: as --32 -o g.o guest.S && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o guest.bin g.o
.code16
.globl _start
_start:
	ljmp	$0, $1f
1:	cli				# else SeaBIOS's timer takes what is typed: its own console is on this port too
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x7c00, %sp
	mov	%dl, drive
	mov	$0x602, %dx		# PM1 enable, of the q35 board under SeaBIOS
	mov	$0x100, %ax		# the power button
	out	%ax, %dx
	mov	$ready, %si
	call	print
loop:	mov	$0x600, %dx		# PM1 status
	in	%dx, %ax
	test	$0x100, %ax
	jnz	button
	mov	$0x3fd, %dx		# line status
	in	%dx, %al
	test	$1, %al
	jz	loop
	mov	$0x3f8, %dx
	in	%dx, %al
	cmp	$'q', %al
	je	off
	cmp	$'r', %al
	je	reset
	cmp	$'w', %al
	je	write
	cmp	$'c', %al
	je	show
	cmp	$'f', %al
	je	flood
	call	put
	jmp	loop

button:	mov	$pressed, %si
	call	print
off:	mov	$0x604, %dx		# PM1 control
	mov	$0x2000, %ax		# sleep now, type 0: S5
	out	%ax, %dx
	hlt
reset:	mov	$0xcf9, %dx
	mov	$6, %al
	out	%al, %dx
	hlt
write:	mov	$text, %si
	mov	$0x8000, %di
	mov	$7, %cx
	cld
	rep	movsb
	mov	$0x0301, %ax
	call	disk
	mov	$ok, %si
	call	print
	jmp	loop
show:	mov	$0x0201, %ax
	call	disk
	movb	$0, 0x8007
	mov	$0x8000, %si
	call	print
	jmp	loop
flood:	mov	$ready, %si
	call	print
	jmp	flood

disk:	mov	$0x8000, %bx		# one sector: cylinder 0, head 0, sector 2
	mov	$2, %cx
	mov	$0, %dh
	mov	drive, %dl
	int	$0x13
	ret
print:	lodsb
	test	%al, %al
	jz	2f
	call	put
	jmp	print
put:	push	%ax
	mov	$0x3fd, %dx
1:	in	%dx, %al
	test	$0x20, %al
	jz	1b
	pop	%ax
	mov	$0x3f8, %dx
	out	%al, %dx
2:	ret

ready:	.asciz	"ready\r\n"
pressed: .asciz	"button\r\n"
ok:	.asciz	"ok\r\n"
text:	.ascii	"written"
drive:	.byte	0
.org 510
.word 0xaa55
